"""Generative expression: from some genes of a cell, with their values, predict the values of its other genes.

Source: Cui et al., scGPT, Nature Methods 21 (2024), "Generative pretraining": perception genes attend to one another,
genes to generate attend to them and to themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..tokenization.encodings.masks import split
from .collation import CellCollator, check_ratios


@dataclass
class GenerativeExpressionCollator(CellCollator):
    """Splits every cell into a perception part and a generation part, as in the published pre-training.

    `int(n × ratio)` of a cell's n genes go to the generation part; special tokens such as `<cls>` stay in the
    perception part. Each part is padded to its longest, so nothing is dropped: with L positions in the longest cell of
    the batch, k of them special, the parts are L - Q and Q = int((L - k) × ratio) long.

    Args:
        mask_ratio: share of the genes to generate, or several shares of which one is drawn.
        ratio_per: draw among several shares once a `"batch"` (as published; keyed by its first cell, so that the share
            depends on which cells share a batch) or once a `"cell"` (whatever the batch).
        second_pass_after: optimizer steps after which the model also generates from its own cell embedding
            (`generate_from_cell_embedding`; published: 1000); None for never.

    Gives:
        `input_ids`, `expression_values`, `attention_mask` (cells, P) of the perception part; `generation_ids`,
        `generation_attention_mask` (cells, Q); `labels` (cells, P + Q) float32, -100 on the perception part and on
        padding; `batch_labels` when the batch has them.
    """

    objective = "generative"
    narrow = True
    predicts_expression = True

    mask_ratio: float | Sequence[float] = (0.25, 0.5, 0.75)
    ratio_per: str = "batch"
    second_pass_after: int | None = 1000

    def __post_init__(self) -> None:
        self._choices = check_ratios(self.mask_ratio, self.ratio_per)

    def forward_arguments(self, step: int) -> dict[str, Any]:
        if self.second_pass_after is None or step < self.second_pass_after:
            return {}
        return {"generate_from_cell_embedding": True}

    def collate(self, batch: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
        ratios = self.ratios(batch, epoch, self._choices, self.ratio_per)
        parts = split(
            batch["input_ids"],
            batch["expression_values"],
            batch["attention_mask"],
            self.choose(batch, epoch, self.not_special(batch), ratios),
            pad_id=self.pad_token_id,
            pad_value=self.pad_value,
        )
        inputs = {
            "input_ids": parts.known_ids,
            "expression_values": parts.known_values,
            "attention_mask": parts.known_mask,
            "generation_ids": parts.generated_ids,
            "generation_attention_mask": parts.generated_mask,
            "labels": parts.labels,
        }
        if "batch_labels" in batch:
            inputs["batch_labels"] = batch["batch_labels"]
        return inputs
