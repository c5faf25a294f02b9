"""Masked samples: hide values of some cells of a sample, predict them from the whole sample.

Source: Wen et al., "CellPLM: Pre-training of Cell Language Model Beyond Single Cells", ICLR 2024.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import betaincinv

from ..errors import ConfigurationError
from ..tokenization.encodings.keys import Stream, cell_keys, uniforms_for
from ..tokenization.encodings.masks import filled, keep, value_labels
from .collation import CellCollator, require_column

_BETA, _LARGEST_RATE = 5.0, 0.9


@dataclass
class MaskedSamplesCollator(CellCollator):
    """Sets values of a sample to 0 and asks for them in `labels`.

    A share of the cells is masked: of such a cell, each gene is hidden with the cell's own probability. What is drawn
    is keyed by (cell, seed, epoch), and by the gene. As published, training leaves out 30 % of the cells of a sample,
    others in each epoch: the corpus does (`sample_share`). Also as published, genes that no cell of a sample expresses
    are counts of 0, hidden and predicted like others; of z-scores, genes that are not measured are neither.

    Args:
        vocab_size: genes of the model, all of which the batch gets; None = those that it has.
        cell_ratio: share of the cells that is masked.
        mask_ratio: probability that a gene of such a cell is hidden.
        vary_ratio: draw the probability of each cell from Beta(5, 4 / `mask_ratio` - 3), whose most frequent value is
            `mask_ratio`, and cut it to 0.9.

    Gives:
        The batch without `cell_ids`, its `expression_values` masked; `masked_positions` (cells, genes) bool; and
        `labels` (cells, genes) float32: all true values of the cells in which something is masked, -100 in the others,
        which are not asked for.

    Raises:
        ConfigurationError: a ratio is not between 0 and 1.
    """

    objective = "masked_samples"
    narrow = True
    predicts_expression = True
    sample_share = 0.7

    vocab_size: int | None = None
    cell_ratio: float = 0.75
    mask_ratio: float = 0.25
    vary_ratio: bool = True

    def __post_init__(self) -> None:
        sound = {
            "cell_ratio": 0 < self.cell_ratio <= 1,
            "mask_ratio": 0 < self.mask_ratio < 1,
        }
        for name in (name for name, holds in sound.items() if not holds):
            raise ConfigurationError(f"`{name}` must lie between 0 and 1, got {getattr(self, name)}.")

    @classmethod
    def from_processor(cls, processor: Any, **overrides: Any) -> "MaskedSamplesCollator":
        """A collator over all genes that `processor` gives a sample; see [`CellCollator.from_processor`]."""
        has_zeros = processor.feature_extractor.value_encoding.has_zeros
        vocab_size = None if has_zeros else processor.tokenizer.gene_vocabulary.size
        return super().from_processor(processor, **({"vocab_size": vocab_size} | overrides))

    def collate(self, batch: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
        cell_ids = require_column(batch, "cell_ids", "they key what is drawn about a cell")
        batch = batch if self.vocab_size is None else self._all_genes(batch)
        values = batch["expression_values"]
        cells, rates = self._cells(uniforms_for(cell_keys(cell_ids, self.seed, epoch), Stream.SAMPLE_CELL, 2))
        ids, cells = (np.broadcast_to(part, values.shape) for part in (batch["input_ids"], cells[:, None]))
        draws = self.draws(batch, epoch, Stream.MASK)
        # also a draw that equals the probability hides
        masked = keep(ids, cells, draws, Stream.MASK, np.nextafter(rates, 1))
        inputs = {name: values for name, values in batch.items() if name not in ("cell_ids", "labels")}
        inputs["masked_positions"] = masked
        inputs["expression_values"] = filled(values, masked, 0)
        inputs["labels"] = value_labels(values, np.broadcast_to(masked.any(1, keepdims=True), values.shape))
        return inputs

    def _all_genes(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch over all genes of the vocabulary, in the order of their ids."""
        values = batch["expression_values"]
        every = np.zeros((len(values), self.vocab_size), values.dtype)
        every[:, batch["input_ids"]] = values
        return batch | {"input_ids": np.arange(self.vocab_size), "expression_values": every}

    def _cells(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(cells,) whether each is masked, and the probability of its genes."""
        masked = np.zeros(len(draws), bool)
        masked[np.argsort(draws[:, 0], kind="stable")[: max(1, int(len(draws) * self.cell_ratio))]] = True
        rates = np.full(len(draws), self.mask_ratio)
        if self.vary_ratio:
            rates = np.minimum(betaincinv(_BETA, 4 / self.mask_ratio - 3, draws[:, 1]), _LARGEST_RATE)
        return masked, rates
