"""Contrastive training of a dual encoder: cells lie near the texts that describe them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ConfigurationError
from ..tokenization.encodings.keys import Stream, cell_keys, uniforms_for
from ..tokenization.encodings.masks import IGNORED
from .cell_classification import check_classes
from .collation import CellCollator, require_column


@dataclass
class CellTextContrastiveCollator(CellCollator):
    """Hands the batch on with the texts that describe its cells, each different text once.

    A label may have several texts: each cell draws one of them anew in every epoch, keyed by its id.

    Args:
        text_input_ids: (texts, words) int64, the texts of all labels.
        text_attention_mask: (texts, words) int64.
        text_labels: (texts,) int64, the label that each text describes.
        all_labels: give the first text of every label, in the order of their numbers, instead of those drawn: the
            columns of the model's logits are then the labels, as evaluation needs them.
        left_out: what the model does not read.

    Gives:
        The batch without `cell_ids`; `labels` (cells,) int64; and `text_input_ids`, `text_attention_mask` and
        `text_labels` of the texts that occur.
    """

    narrow = True

    text_input_ids: np.ndarray = field(default_factory=lambda: np.ones((0, 1), np.int64))
    text_attention_mask: np.ndarray = field(default_factory=lambda: np.ones((0, 1), np.int64))
    text_labels: np.ndarray = field(default_factory=lambda: np.ones(0, np.int64))
    all_labels: bool = False
    left_out: tuple[str, ...] = ("cell_ids",)

    def __post_init__(self) -> None:
        self._n_texts = np.bincount(self.text_labels)
        self._first = np.searchsorted(self.text_labels, np.arange(len(self._n_texts)))

    @classmethod
    def from_processor(
        cls, processor: Any, texts: Sequence[str | Sequence[str]] = (), **overrides: Any
    ) -> "CellTextContrastiveCollator":
        """A collator for the cells of a corpus.

        Args:
            processor: of the dual encoder.
            texts: of each label, in the order of `corpus.label_names`, one text or several.
            **overrides: the collator's own arguments.

        Raises:
            ConfigurationError: a label has no text, or a text is empty or too long.
        """
        several = [[one] if isinstance(one, str) else list(one) for one in texts]
        if absent := [number for number, one in enumerate(several) if not one]:
            raise ConfigurationError(f"The labels {absent[:10]} have no text: give at least one for each label.")
        settings = processor.encode_texts([text for one in several for text in one])
        settings["text_labels"] = np.repeat(np.arange(len(several)), [len(one) for one in several])
        if processor.cell_processor.context == "sample":
            settings["left_out"] = ("cell_ids", "batch_labels")
        return super().from_processor(processor.cell_processor, **(settings | overrides))

    def collate(self, batch: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
        labels = require_column(batch, "labels", "the texts are those of the labels").astype(np.int64)
        check_classes(labels, len(self._n_texts))
        rows = self._first if self.all_labels else self._drawn(batch, labels, epoch)
        mask = self.text_attention_mask[rows]
        used = mask.any(axis=0)
        inputs = {name: values for name, values in batch.items() if name not in self.left_out}
        return inputs | {
            "labels": labels,
            "text_input_ids": self.text_input_ids[rows][:, used],
            "text_attention_mask": mask[:, used],
            "text_labels": self.text_labels[rows],
        }

    def _drawn(self, batch: dict[str, np.ndarray], labels: np.ndarray, epoch: int) -> np.ndarray:
        """The different texts that the cells of a batch draw; the first of all where no cell has a label."""
        ids = require_column(batch, "cell_ids", "they key which text of its label a cell draws")
        uniforms = uniforms_for(cell_keys(ids, self.seed, epoch), Stream.TEXT, 1)[:, 0]
        known = labels != IGNORED
        numbers = labels[known]
        places = (uniforms[known] * self._n_texts[numbers]).astype(np.int64)
        rows = np.unique(self._first[numbers] + places)
        return rows if len(rows) else np.zeros(1, np.int64)
