"""A fitted head on disk: weights as safetensors, the rest as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError, ConfigurationError, GeneCoverageError
from ...files import new_folder, read_json_object, require_regular_file
from ...logging import warn
from .predictors import EMBEDDING, PCA, RIDGES, Projection, Ridge

WEIGHTS, FACTS = "head.safetensors", "head.json"
KINDS = ("protein", "atac")
_FORMAT = "sclm_hf multimodal head 2"
_LEAST, _FEW = 0.3, 0.6
"""Shares of the genes of the principal components that data must have, and below which a warning is given."""


@dataclass(frozen=True)
class Head:
    """A ridge regression on embeddings of a model, principal components of RNA or both, and what it predicts.

    Attributes:
        ridge: the regression.
        facts: `kind`, `features`, `method`, what it reads, `model`, a hash of the model and its processor,
            `model_name` and `n_cells`.
        projection: the principal components, where it reads these.
    """

    ridge: Ridge
    facts: dict[str, Any]
    projection: Projection | None = None

    def predict(self, counts: Any, genes: Sequence[str], embedding: np.ndarray) -> np.ndarray:
        """(n_cells, n_features).

        Args:
            counts: (n_cells, n_genes) of RNA.
            genes: (n_genes,) names of the columns.
            embedding: (n_cells, size) of the model.
        """
        blocks = [] if self.facts["method"] == PCA else [embedding]
        if self.projection is not None:
            blocks.append(self.projection.of(counts, genes))
        return self.ridge.predict(np.hstack(blocks))

    def check_genes(self, genes: Sequence[str]) -> None:
        """Refuse data that lack most of the genes of the principal components.

        Raises:
            GeneCoverageError: fewer than 30 % are among the `genes`.
        """
        if self.projection is None:
            return
        n_genes, names = len(self.projection.genes), set(map(str, genes))
        n_there = sum(name in names for name in self.projection.genes)
        told = (
            f"The data have {n_there:,} of the {n_genes:,} genes of the principal components that the head reads, "
            f"such as {self.projection.genes[0]!r}"
        )
        if n_there < _LEAST * n_genes:
            raise GeneCoverageError(f"{told}: name genes as in the cells that it was fitted on.")
        if n_there < _FEW * n_genes:
            warn(f"{told}; the others count as their means.")

    def save(self, folder: Path) -> None:
        """Write it to a new folder."""
        from safetensors.numpy import save_file

        arrays, facts = dict(vars(self.ridge)), {"format": _FORMAT, **self.facts}
        if self.projection is not None:
            arrays |= {"means": self.projection.means, "loadings": self.projection.loadings}
            facts["genes"] = list(self.projection.genes)
        tensors = {name: np.ascontiguousarray(value, np.float64) for name, value in arrays.items()}
        with new_folder(folder) as unfinished:
            unfinished.mkdir()
            save_file(tensors, unfinished / WEIGHTS)
            (unfinished / FACTS).write_text(json.dumps(facts, indent=2), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Head":
        """Read what [`save`] wrote.

        Raises:
            ConfigurationError: there is no such folder.
            CheckpointError: a file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if not folder.is_dir():
            raise ConfigurationError(
                f"There is no head `{folder}`: fit one on paired cells, with `other` (the file OTHER) and `head` "
                "(`--head`)."
            )
        facts = read_json_object(folder / FACTS)
        require_regular_file(folder / WEIGHTS)
        try:
            tensors = load_file(folder / WEIGHTS)
            if not all(one.dtype == np.float64 and np.isfinite(one).all() for one in tensors.values()):
                raise ValueError("its weights must be finite float64 numbers")
            components = {name: tensors.pop(name) for name in ("means", "loadings") if name in tensors}
            ridge = Ridge(**tensors)
            projection = Projection(facts["genes"], **components) if components else None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"The head `{folder}` cannot be read: {error}. Fit it anew.") from error
        head = cls(ridge, facts, projection)
        if not head._is_whole():
            raise CheckpointError(f"The files of the head `{folder}` do not fit one another: fit it anew.")
        return head

    def _is_whole(self) -> bool:
        """Whether facts, weights and components belong together."""
        features, kind, method = (self.facts.get(name) for name in ("features", "kind", "method"))
        ridge, projection = self.ridge, self.projection
        shaped = (
            _are_names(features)
            and len(set(features)) == len(features)
            and ridge.weights.shape[1:] == ridge.biases.shape == ridge.penalties.shape == (len(features),)
            and ridge.weights.ndim == 2
        )
        named = projection is None or (
            _are_names(projection.genes)
            and (len(projection.genes),) == projection.means.shape == projection.loadings.shape[:1]
            and projection.loadings.ndim == 2
        )
        reads = method in RIDGES and (projection is None) == (method == EMBEDDING)
        return self.facts.get("format") == _FORMAT and kind in KINDS and shaped and named and reads

    def reads(self, embedding_size: int) -> bool:
        """Whether the weights are for embeddings of so many numbers, and the components beside them."""
        n_components = 0 if self.projection is None else self.projection.loadings.shape[1]
        return len(self.ridge.weights) == n_components + (0 if self.facts["method"] == PCA else embedding_size)


def _are_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)
