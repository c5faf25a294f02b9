"""Encoded cells as the code words of their embeddings."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..errors import CheckpointError, ConfigurationError
from ..logging import quiet_transformers
from ..modeling.common.outputs import embedding_of
from ..opening.inference import independent_cells
from ..opening.loading import load_model
from ..tokenization.processing_cell import CellProcessor
from .codebook import CODEBOOK_FILE, MOST_CELLS, Codebook

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..corpora.cell_corpus import CellStream


class CodeWords(nn.Module):
    """Writes encoded cells as code words, where [`~cell_words.CellWords`] writes the names of their genes.

    A cell's embedding is the same to about 1e-5 in any batch; a word differs only where it lies that near to the
    border between two codes.

    Args:
        encoder: a model with `cell_embedding`, of any family.
        processor: its processor.
        codebook: fitted to its embeddings.

    Attributes:
        words: all words of the codebook.

    Raises:
        ConfigurationError: the encoder's embeddings have another size than the codebook reads.
    """

    def __init__(self, encoder: "PreTrainedModel", processor: CellProcessor, codebook: Codebook) -> None:
        super().__init__()
        size = encoder.config.cell_embedding_size
        if size != codebook.size:
            raise ConfigurationError(
                f"The codebook reads embeddings of {codebook.size} numbers, and the encoder's have {size}: take "
                "the encoder that it was fitted to, or fit one to this encoder (`CodeWords.fit`)."
            )
        self.encoder, self.processor, self.codebook = encoder.eval().requires_grad_(False), processor, codebook
        self.words = codebook.words

    @classmethod
    def fit(
        cls,
        encoder: "PreTrainedModel",
        corpus: "CellStream",
        *,
        n_words: int = 8,
        n_codes: int = 64,
        seed: int = 0,
        batch_size: int = 64,
    ) -> "CodeWords":
        """Fit a codebook to the embeddings of a corpus, or of its first [`~codebook.MOST_CELLS`] cells.

        Args:
            encoder: the model whose processor encodes the cells of the corpus.
            corpus: the cells; shuffled, unless all of them are used.
            n_words, n_codes, seed: as for [`~codebook.Codebook.fit`].
            batch_size: cells that are embedded at a time; samples are embedded whole.

        Raises:
            ConfigurationError: as for [`~codebook.Codebook.fit`]; or the encoder has tables that are never saved with
                other weights.
        """
        if encoder.frozen_tables():
            raise ConfigurationError(
                "The encoder has tables that are never saved with other weights, so a language model cannot keep it: "
                "choose an encoder of another family (`cell_tokens`, `--cell_tokens`)."
            )
        size = len(corpus) if corpus.samples else batch_size
        batches = islice(corpus.batches(size), -(-MOST_CELLS // batch_size))
        embeddings = np.concatenate([_embedded(encoder, corpus.processor, batch) for batch in batches])
        codebook = Codebook.fit(embeddings[:MOST_CELLS], n_words=n_words, n_codes=n_codes, seed=seed)
        return cls(encoder, corpus.processor, codebook)

    def sentences(self, batch: Mapping[str, Any]) -> list[str]:
        """(cells,) sentences of a batch as the processor encodes it."""
        return self.codebook.sentences(self.codebook.encode(_embedded(self.encoder, self.processor, batch)))

    def check_tokenizer(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Refuse a tokenizer that would take the words apart.

        Raises:
            ConfigurationError: a word is no token of it.
        """
        known = tokenizer.get_vocab()
        if missing := [word for word in self.words if word not in known]:
            raise ConfigurationError(
                f"{len(missing)} words of the codebook are no tokens of the language model, for example "
                f"`{missing[0]}`: add them with `add_cell_tokens(model, tokenizer, codebook)`."
            )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write encoder, processor and codebook to a folder, which then also opens as the encoder."""
        with quiet_transformers():
            self.encoder.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        self.codebook.save(folder)

    @classmethod
    def load(cls, folder: str | Path) -> "CodeWords":
        """What [`save_pretrained`] wrote, on the CPU.

        Raises:
            CheckpointError: a part is missing or damaged, or they do not belong together.
        """
        codebook = Codebook.load(folder)
        loaded = load_model(str(folder), "AutoModel", device="cpu")
        try:
            return cls(loaded.model, loaded.processor, codebook)
        except ConfigurationError as error:
            raise CheckpointError(f"`{folder}` cannot be used: {error}") from error


def has_codebook(folder: str | Path) -> bool:
    """Whether a folder holds a codebook."""
    return (Path(folder) / CODEBOOK_FILE).exists()


@torch.inference_mode()
def _embedded(encoder: "PreTrainedModel", processor: CellProcessor, batch: Mapping[str, Any]) -> np.ndarray:
    """(cells, size) embeddings of an encoded batch, as `embed` gives them."""
    names = processor.model_input_names
    inputs = {name: torch.as_tensor(values).to(encoder.device) for name, values in batch.items() if name in names}
    with independent_cells(encoder):
        return embedding_of(encoder(**inputs), encoder.config).cpu().numpy()
