"""A codebook over cell embeddings: a cell as a few words that a language model reads and writes."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, ConfigurationError, require
from ..files import read_json_object, write_text, written_whole
from ..logging import get_logger, warn

logger = get_logger(__name__)

CODEBOOK_FILE = "codebook.json"
CENTROIDS_FILE = "codebook.safetensors"
MOST_CELLS = 100_000
"""Cells that a codebook is fitted to, at most."""

_FORMAT = "sclm_hf codebook 1"
_WORD = re.compile(r"<cell_(\d+)_(\d+)>")


@dataclass(frozen=True, eq=False)
class Codebook:
    """A residual codebook: each word of a cell names a centroid, and the next word what that one leaves over.

    This is residual vector quantisation (Chen et al., Sensors 2010), fitted by k-means; discrete words for cells as
    in CellTok (bioRxiv 2025.10.22.684047), whose codes are learned by an autoencoder instead.

    Attributes:
        centroids: (words, codes, size) float32; a cell's embedding is about the sum of one of each.
        usage: (words, codes) int64, how many of the cells that it was fitted to have each code.
        error: share of the variance of their embeddings that the words do not tell.
    """

    centroids: np.ndarray
    usage: np.ndarray
    error: float

    @classmethod
    def fit(cls, embeddings: np.ndarray, *, n_words: int = 8, n_codes: int = 64, seed: int = 0) -> "Codebook":
        """Fit a codebook by k-means, one level after the other, each to what the levels before it leave over.

        Args:
            embeddings: (cells, size) embeddings; of more than [`MOST_CELLS`], as many are drawn.
            n_words: words of a cell.
            n_codes: how many different words each of them is chosen from.
            seed: of the starts of k-means (k-means++) and of the cells drawn.

        Warns:
            SclmWarning: some words stand for no cell.

        Raises:
            ConfigurationError: a number is out of range, an embedding is not finite or not a vector, or there are
                fewer different cells than codes.
        """
        if n_words < 1 or n_codes < 2:
            raise ConfigurationError(
                f"A codebook has at least one word per cell and two codes to choose it from, got {n_words} "
                f"(`n_code_words`, `--n_code_words`) and {n_codes} (`codebook_size`, `--codebook_size`)."
            )
        embeddings = _checked(embeddings)
        if len(embeddings) > MOST_CELLS:
            drawn = np.random.default_rng(seed).choice(len(embeddings), MOST_CELLS, replace=False)
            embeddings = embeddings[np.sort(drawn)]
        left, centroids, usage = embeddings.copy(), [], []
        for word in range(n_words):
            centroids.append(_k_means(left, n_codes, seed, word))
            codes = _nearest(left, centroids[-1])
            usage.append(np.bincount(codes, minlength=n_codes))
            left -= centroids[-1][codes]
        variance = float(((embeddings - embeddings.mean(axis=0)) ** 2).sum())
        error = float((left**2).sum()) / variance if variance else 0.0
        fitted = cls(np.stack(centroids), np.stack(usage).astype(np.int64), error)
        fitted._report(len(embeddings))
        return fitted

    @property
    def size(self) -> int:
        """Of the embeddings that it reads."""
        return self.centroids.shape[2]

    @property
    def words(self) -> list[str]:
        """All of its words, level by level."""
        n_words, n_codes, _ = self.centroids.shape
        return [f"<cell_{word}_{code}>" for word in range(n_words) for code in range(n_codes)]

    def encode(self, embeddings: np.ndarray) -> np.ndarray:
        """(cells, words) int64 codes of (cells, size) embeddings.

        Raises:
            ConfigurationError: they have another size, or one is not finite.
        """
        left = _checked(embeddings, self.size).copy()
        codes = np.empty((len(left), len(self.centroids)), np.int64)
        for word, centroids in enumerate(self.centroids):
            codes[:, word] = _nearest(left, centroids)
            left -= centroids[codes[:, word]]
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """(cells, size) float32 embeddings that (cells, words) codes stand for; with fewer words, coarser ones."""
        codes = np.asarray(codes)
        return self.centroids[np.arange(codes.shape[1]), codes].sum(axis=1)

    def sentences(self, codes: np.ndarray) -> list[str]:
        """(cells,) sentences of (cells, words) codes, their words separated by spaces."""
        return [" ".join(f"<cell_{word}_{code}>" for word, code in enumerate(row)) for row in np.asarray(codes)]

    def codes_of(self, sentence: str) -> np.ndarray | None:
        """(words,) codes of a sentence that a model wrote; None unless it is a whole cell, each word in its place."""
        found = _WORD.findall(sentence)
        n_words, n_codes, _ = self.centroids.shape
        codes = np.array(found, np.int64).reshape(-1, 2)
        is_whole = np.array_equal(codes[:, 0], np.arange(n_words)) and (codes[:, 1] < n_codes).all()
        return codes[:, 1] if is_whole and not _WORD.sub("", sentence).strip() else None

    def save(self, folder: str | Path) -> None:
        """Write the codebook to a folder: centroids as safetensors, the rest as JSON."""
        from safetensors.numpy import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / CENTROIDS_FILE) as unfinished:
            save_file({"centroids": self.centroids, "usage": self.usage}, unfinished)
        n_words, n_codes, size = self.centroids.shape
        facts = {"format": _FORMAT, "n_words": n_words, "n_codes": n_codes, "size": size, "error": self.error}
        write_text(folder / CODEBOOK_FILE, json.dumps(facts, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "Codebook":
        """What [`save`] wrote.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = Path(folder)
        if not (folder / CODEBOOK_FILE).exists():
            raise CheckpointError(
                f"`{folder}` holds no codebook (`{CODEBOOK_FILE}`), without which cells have no words: fetch the "
                "whole folder, or train the model again (`sclm-hf finetune --text --cell_tokens …`)."
            )
        facts = read_json_object(folder / CODEBOOK_FILE)
        try:
            read = load_file(folder / CENTROIDS_FILE)
            centroids, usage = read["centroids"], read["usage"]
        except (OSError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"`{folder / CENTROIDS_FILE}` cannot be read: {error}.") from error
        shape = tuple(facts.get(name) for name in ("n_words", "n_codes", "size"))
        if facts.get("format") != _FORMAT or centroids.shape != shape or usage.shape != shape[:2]:
            raise CheckpointError(f"`{folder / CODEBOOK_FILE}` does not describe the codebook beside it.")
        if centroids.dtype != np.float32 or not np.isfinite(centroids).all():
            raise CheckpointError(f"`{folder / CENTROIDS_FILE}` holds centroids that are no finite float32 numbers.")
        return cls(centroids, usage, float(facts.get("error", 0.0)))

    def _report(self, n_cells: int) -> None:
        """Say how well the words tell cells apart, and which are of no use."""
        n_words, n_codes, _ = self.centroids.shape
        told = f"{n_words} words from {n_codes} codes each, fitted to {n_cells:,} cells"
        logger.info("Codebook: %s; they tell %.1f %% of the variance.", told, 100 * (1 - self.error))
        if dead := int((self.usage == 0).sum()):
            warn(
                f"{dead} of the {self.usage.size} words of the codebook ({told}) stand for no cell: take fewer codes."
            )


def _checked(embeddings: Any, size: int | None = None) -> np.ndarray:
    """(cells, size) float32, if the embeddings are finite vectors."""
    embeddings = np.asarray(embeddings, np.float32)
    if embeddings.ndim != 2 or (size is not None and embeddings.shape[1] != size):
        raise ConfigurationError(
            f"Expected embeddings (cells, {size or 'size'}), got the shape {embeddings.shape}: a codebook reads those "
            "of the encoder that it was fitted to."
        )
    if broken := int((~np.isfinite(embeddings)).any(axis=1).sum()):
        raise ConfigurationError(
            f"{broken:,} of {len(embeddings):,} embeddings are NaN or infinite: look for extreme values among the "
            "data, and at the encoder."
        )
    return embeddings


def _k_means(vectors: np.ndarray, n_codes: int, seed: int, word: int) -> np.ndarray:
    """(codes, size) float32 centroids."""
    cluster = require("sklearn.cluster", extra="train")
    n_different = len(np.unique(vectors, axis=0))
    if n_different < n_codes:
        raise ConfigurationError(
            f"Word {word + 1} of a cell is to be chosen from {n_codes} codes, and the {len(vectors):,} cells leave "
            f"only {n_different:,} different vectors for it: take fewer codes (`codebook_size`, `--codebook_size`) or "
            "words (`n_code_words`, `--n_code_words`), or more cells."
        )
    fitted = cluster.KMeans(n_codes, n_init=1, random_state=seed).fit(vectors)
    return fitted.cluster_centers_.astype(np.float32)


def _nearest(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(cells,) number of the centroid that is nearest to each vector, the first of several."""
    return ((centroids**2).sum(axis=1) - 2 * vectors @ centroids.T).argmin(axis=1)
