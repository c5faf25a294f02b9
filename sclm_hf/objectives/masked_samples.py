"""Masked samples: hide counts of some cells of a sample, predict them from the whole sample.

Source: Wen et al., "CellPLM: Pre-training of Cell Language Model Beyond Single Cells", ICLR 2024.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv

from ..errors import ConfigurationError
from ..tokenization.encodings.keys import Stream
from .collation import IGNORED, CellCollator, require_column

_BETA, _LARGEST_RATE = 5.0, 0.9


@dataclass
class MaskedSamplesCollator(CellCollator):
    """Sets counts of a sample to 0 and asks for them in `labels`.

    A share of the cells is masked: of such a cell, each gene is hidden with the cell's own probability. What is drawn
    is keyed by (cell, seed, epoch), and by the gene. As published, training leaves out 30 % of the cells of a sample,
    others in each epoch: the corpus does (`sample_share`). Also as published, genes that no cell of a sample expresses
    are counts of 0, hidden and predicted like others.

    Args:
        vocab_size: genes of the model, all of which the batch gets; None = those that it has.
        cell_ratio: share of the cells that is masked.
        mask_ratio: probability that a gene of such a cell is hidden.
        vary_ratio: draw the probability of each cell from Beta(5, 4 / `mask_ratio` - 3), whose most frequent value is
            `mask_ratio`, and cut it to 0.9.

    Gives:
        The batch without `cell_ids`, its `expression_values` masked; `masked_positions` (cells, genes) bool; and
        `labels` (cells, genes) float32: all true counts of the cells in which something is masked, -100 in the others,
        which are not asked for.

    Raises:
        ConfigurationError: a ratio is not between 0 and 1.
    """

    objective = "masked_samples"
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
        """A collator over all genes of `processor`; see [`CellCollator.from_processor`]."""
        return super().from_processor(
            processor, **({"vocab_size": processor.tokenizer.gene_vocabulary.size} | overrides)
        )

    def collate(self, batch: dict[str, torch.Tensor], epoch: int) -> dict[str, torch.Tensor]:
        cell_ids = require_column(batch, "cell_ids", "they key what is drawn about a cell")
        batch = batch if self.vocab_size is None else self._all_genes(batch)
        masked_cells, rates = self._cells(self.uniforms(cell_ids, epoch, Stream.SAMPLE_CELL, 2).numpy())
        draws = self.uniforms(cell_ids, epoch, Stream.MASK, batch["input_ids"].expand(len(cell_ids), -1))
        masked = (draws <= rates[:, None]) & masked_cells[:, None]
        inputs = {name: tensor for name, tensor in batch.items() if name not in ("cell_ids", "labels")}
        values = batch["expression_values"]
        inputs["masked_positions"] = masked
        inputs["expression_values"] = values.masked_fill(masked, 0)
        inputs["labels"] = values.float().masked_fill(~masked.any(1, keepdim=True), IGNORED)
        return inputs

    def _all_genes(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch over all genes of the vocabulary, in the order of their ids."""
        values = batch["expression_values"]
        every = values.new_zeros(len(values), self.vocab_size).index_copy(1, batch["input_ids"], values)
        return batch | {"input_ids": torch.arange(self.vocab_size), "expression_values": every}

    def _cells(self, draws: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(cells,) whether each is masked, and the probability of its genes."""
        masked = np.zeros(len(draws), bool)
        masked[np.argsort(draws[:, 0], kind="stable")[: max(1, int(len(draws) * self.cell_ratio))]] = True
        rates = np.full(len(draws), self.mask_ratio)
        if self.vary_ratio:
            rates = np.minimum(betaincinv(_BETA, 4 / self.mask_ratio - 3, draws[:, 1]), _LARGEST_RATE)
        return torch.from_numpy(masked), torch.from_numpy(rates)
