"""Generative expression: from some genes of a cell, with their values, predict the values of its other genes.

Source: Cui et al., scGPT, Nature Methods 21 (2024), "Generative pretraining": perception genes attend to one another,
genes to generate attend to them and to themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .collation import IGNORED, CellCollator, check_ratios


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

    def collate(self, batch: dict[str, torch.Tensor], epoch: int) -> dict[str, torch.Tensor]:
        real = batch["attention_mask"].bool()
        ratios = self.ratios(batch, epoch, self._choices, self.ratio_per)
        generated = self.choose(batch, epoch, self.not_special(batch), ratios)
        ids, values = batch["input_ids"], batch["expression_values"].float()
        fills = (self.pad_token_id, self.pad_value, 0)
        known_ids, known_values, known_mask = pack(real & ~generated, (ids, values, real.long()), fills)
        fills = (self.pad_token_id, IGNORED, 0)
        generation_ids, targets, generation_mask = pack(generated, (ids, values, real.long()), fills)
        inputs = {
            "input_ids": known_ids,
            "expression_values": known_values,
            "attention_mask": known_mask,
            "generation_ids": generation_ids,
            "generation_attention_mask": generation_mask,
            "labels": torch.cat([torch.full_like(known_values, IGNORED), targets], dim=1),
        }
        if "batch_labels" in batch:
            inputs["batch_labels"] = batch["batch_labels"]
        return inputs


def pack(chosen: torch.Tensor, rows: Sequence[torch.Tensor], fills: Sequence[float]) -> list[torch.Tensor]:
    """Move the chosen positions of every row to the front, in their order, and cut to the longest (at least 1).

    Args:
        chosen: (cells, genes) bool.
        rows: tensors (cells, genes) to pack alike.
        fills: what follows the chosen entries, one for each of `rows`.
    """
    order = chosen.logical_not().argsort(dim=1, stable=True)
    width = max(1, int(chosen.sum(1).max()))
    filled = torch.arange(width) >= chosen.sum(1, keepdim=True)
    order = order[:, :width]
    return [row.gather(1, order).masked_fill(filled, fill) for row, fill in zip(rows, fills, strict=True)]
