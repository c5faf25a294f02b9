"""Contrastive pre-training: views of the same cell, and cells with the same label, lie close together.

Sources: Chen et al., "A simple framework for contrastive learning of visual representations" (NT-Xent), ICML 2020, for
views; Khosla et al., "Supervised contrastive learning", NeurIPS 2020, for labels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ..modeling.common.losses import counts
from .collation import require_column
from .supervised import SupervisedCollator


@dataclass
class ContrastiveCollator(SupervisedCollator):
    """Hands the batch on with what tells which of its rows belong together.

    Args:
        label_sets: (labels, classes) bool, as `CellCorpus.label_sets`; None = labels do not count.

    Gives:
        The batch without `cell_ids`; `cells` (rows,) int64, the same number for views of the same cell; and with
        `label_sets` also `labels` (rows, classes) bool.
    """

    objective = "contrastive"

    label_sets: np.ndarray | None = None

    def collate(self, batch: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
        ids = require_column(batch, "cell_ids", "they tell which views are of the same cell")
        if self.label_sets is None:
            inputs = {name: values for name, values in batch.items() if name not in (*self.left_out, "labels")}
        else:
            inputs = super().collate(batch, epoch)
        return inputs | {"cells": np.unique(ids, return_inverse=True)[1].astype(np.int64)}


class Contrast(nn.Module):
    """An encoder, and the projection of its embeddings that is compared; only the encoder is saved.

    Args:
        encoder: the model that is trained and saved.
        temperature: by which similarities are divided.
    """

    # it compares the rows of a batch, whose mean is the loss
    accepts_loss_kwargs = False

    def __init__(self, encoder: PreTrainedModel, *, temperature: float = 0.1) -> None:
        super().__init__()
        self.encoder, self.temperature = encoder, temperature
        width = getattr(encoder.config, "cell_embedding_size", None) or encoder.config.hidden_size
        self.projection = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    @property
    def kept(self) -> nn.Module:
        """What is saved."""
        return self.encoder

    def forward(self, cells: Tensor, labels: Tensor | None = None, **inputs: Any) -> ModelOutput:
        embedding = self.encoder(**inputs).cell_embedding
        loss = contrastive_loss(self.projection(embedding), cells, labels, self.temperature)
        return ModelOutput(loss=loss, cell_embedding=embedding)


def contrastive_loss(
    projected: Tensor, cells: Tensor, labels: Tensor | None = None, temperature: float = 0.1
) -> Tensor:
    """How badly each row tells the rows that belong to it from the others; the mean over rows that have such.

    Rows of the same cell, or with the same label, belong together. Rows whose labels differ and may yet mean the same
    (of "T cell" and "CD4 T cell") are left out of the comparison.

    Args:
        projected: (rows, width).
        cells: (rows,) the same number for views of the same cell.
        labels: (rows, classes) bool, the classes that a row may have; sets that say nothing, or None, do not count.
        temperature: by which the cosines are divided.
    """
    itself = torch.eye(len(projected), dtype=torch.bool, device=projected.device)
    together = cells[:, None] == cells
    compared = ~itself
    if labels is not None:
        told = counts(labels)[:, None] & counts(labels)
        shared = labels.float() @ labels.float().T
        size = labels.float().sum(dim=1)
        same = told & (shared == size[:, None]) & (shared == size)
        compared = compared & ~(told & (shared > 0) & ~same & ~together)
        together = together | same
    together = together & ~itself
    directions = F.normalize(projected.float(), dim=1)
    scores = (directions @ directions.T / temperature).masked_fill(~compared, -torch.inf)
    logs = scores - scores.logsumexp(dim=1, keepdim=True)
    n_together = together.sum(dim=1)
    losses = -torch.where(together, logs, 0.0).sum(dim=1) / n_together.clamp(min=1)
    has_any = n_together > 0
    return losses[has_any].sum() / has_any.sum().clamp(min=1)
