"""Masked samples: hide counts of some cells of a sample, predict them from the whole sample.

Source: Wen et al., "CellPLM: Pre-training of Cell Language Model Beyond Single Cells", ICLR 2024.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import betaincinv

from ..errors import ConfigurationError
from .collation import IGNORED, MASK_STREAM, CellCollator, require_column

CELL_STREAM = 13
"""Stream of the keyed generator: whether a cell stays, whether it is masked, and how much of it."""

_BETA, _LARGEST_RATE = 5.0, 0.9


@dataclass
class MaskedSamplesCollator(CellCollator):
    """Sets counts of a sample to 0 and asks for them in `labels`.

    Some cells are left out of the sample, and a share of the others is masked: of such a cell, each gene is hidden
    with the cell's own probability. What is drawn is keyed by (cell, seed, epoch), and by the gene.

    Args:
        drop_ratio: share of the cells of a sample that is left out.
        cell_ratio: share of the other cells that is masked.
        mask_ratio: probability that a gene of such a cell is hidden.
        vary_ratio: draw the probability of each cell from Beta(5, 4 / `mask_ratio` - 3), whose most frequent value is
            `mask_ratio`, and cut it to 0.9.

    Gives:
        The batch without `cell_ids` and without the cells left out, its `expression_values` masked; `masked_positions`
        (cells, genes) bool; and `labels` (cells, genes) float32: all true counts of the cells in which something is
        masked, -100 in the others, which are not asked for.

    Raises:
        ConfigurationError: a ratio is not between 0 and 1.
    """

    predicts_expression = True

    drop_ratio: float = 0.3
    cell_ratio: float = 0.75
    mask_ratio: float = 0.25
    vary_ratio: bool = True

    def __post_init__(self) -> None:
        sound = {
            "drop_ratio": 0 <= self.drop_ratio < 1,
            "cell_ratio": 0 < self.cell_ratio <= 1,
            "mask_ratio": 0 < self.mask_ratio < 1,
        }
        for name in (name for name, holds in sound.items() if not holds):
            raise ConfigurationError(f"`{name}` must lie between 0 and 1, got {getattr(self, name)}.")

    def collate(self, batch: dict[str, torch.Tensor], epoch: int) -> dict[str, torch.Tensor]:
        cell_ids = require_column(batch, "cell_ids", "they key what is drawn about a cell")
        kept, masked_cells, rates = self._cells(self.uniforms(cell_ids, epoch, CELL_STREAM, 3).numpy())
        inputs = {name: tensor if name == "input_ids" else tensor[kept] for name, tensor in batch.items()}
        values, genes = inputs["expression_values"], batch["input_ids"].expand(len(kept), -1)
        draws = self.uniforms(cell_ids[kept], epoch, MASK_STREAM, genes)
        masked = (draws <= rates[kept, None]) & masked_cells[kept, None]
        inputs = {name: tensor for name, tensor in inputs.items() if name not in ("cell_ids", "labels")}
        inputs["masked_positions"] = masked
        inputs["expression_values"] = values.masked_fill(masked, 0)
        inputs["labels"] = values.float().masked_fill(~masked.any(1, keepdim=True), IGNORED)
        return inputs

    def _cells(self, draws: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Which cells stay, in their order; (cells,) whether each is masked, and the probability of its genes."""
        n_kept = max(1, int(len(draws) * (1 - self.drop_ratio)))
        kept = np.argsort(draws[:, 0], kind="stable")[:n_kept]
        masked = np.zeros(len(draws), bool)
        masked[kept[np.argsort(draws[kept, 1], kind="stable")[: max(1, int(n_kept * self.cell_ratio))]]] = True
        rates = np.full(len(draws), self.mask_ratio)
        if self.vary_ratio:
            rates = np.minimum(betaincinv(_BETA, 4 / self.mask_ratio - 3, draws[:, 2]), _LARGEST_RATE)
        return torch.from_numpy(np.sort(kept)), torch.from_numpy(masked), torch.from_numpy(rates)
