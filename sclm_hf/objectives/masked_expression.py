"""Masked expression: hide the values of some genes, predict them from the others.

Sources: Cui et al., scGPT, Nature Methods 21 (2024), the fine-tuning objective "gene expression prediction"; Yang et
al., scBERT, Nature Machine Intelligence 4 (2022), pre-training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigurationError
from ..tokenization.encodings.keys import Stream
from ..tokenization.encodings.masks import filled, keep, value_labels
from .collation import CellCollator, check_ratios


@dataclass
class MaskedExpressionCollator(CellCollator):
    """Replaces values by `mask_value` and asks for them in `labels`.

    Of the n maskable genes of a cell, `int(n × ratio)` are drawn without replacement, keyed by (cell, seed, epoch):
    the same cell gets the same mask in whatever batch it arrives, unless several ratios are drawn per batch.

    Args:
        mask_ratio: share of the maskable genes, or several shares of which one is drawn.
        ratio_per: draw among several shares once a `"batch"` (as published; keyed by its first cell, so that the share
            depends on which cells share a batch) or once a `"cell"` (whatever the batch).
        mask_value: takes the place of a masked value.
        mask_zeros: whether genes with value 0 may be masked (they exist when the encoding keeps zeros).
        replace_ratio: probability that a drawn value is replaced; the others are asked for and stay to be seen.
        rounding: `"down"` draws `int(n × ratio)` genes, `"up"` the next larger number.

    Gives:
        The batch without `cell_ids`, its `expression_values` masked, and `labels` (cells, genes) float32: the true
        value where drawn, -100 elsewhere.
    """

    objective = "masked"
    narrow = True
    predicts_expression = True

    mask_ratio: float | Sequence[float] = 0.4
    ratio_per: str = "batch"
    mask_value: float = -1.0
    mask_zeros: bool = True
    replace_ratio: float = 1.0
    rounding: str = "down"

    def __post_init__(self) -> None:
        self._choices = check_ratios(self.mask_ratio, self.ratio_per)
        if not 0 < self.replace_ratio <= 1:
            raise ConfigurationError(f"`replace_ratio` must be above 0 and at most 1, got {self.replace_ratio}.")
        if self.rounding not in ("down", "up"):
            raise ConfigurationError(f"`rounding` is 'down' or 'up', got {self.rounding!r}.")

    def collate(self, batch: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
        values = batch["expression_values"]
        maskable = self.not_special(batch)
        if not self.mask_zeros:
            maskable &= values != 0
        ratios = self.ratios(batch, epoch, self._choices, self.ratio_per)
        drawn = self.choose(batch, epoch, maskable, ratios, self.rounding)
        masked = drawn
        if self.replace_ratio < 1:
            draws = self.draws(batch, epoch, Stream.VALUE_HIDDEN)
            shares = np.full(len(values), self.replace_ratio)
            masked = keep(batch["input_ids"], drawn, draws, Stream.VALUE_HIDDEN, shares)
        inputs = {name: values for name, values in batch.items() if name not in ("cell_ids", "labels")}
        inputs["expression_values"] = filled(values, masked, self.mask_value)
        inputs["labels"] = value_labels(values, drawn)
        return inputs
