"""Evaluation while training: the loss and the metrics of all evaluation cells, over all processes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import ConfigurationError, SclmError, require
from ..evaluation.metrics import METRICS, score
from .steps import count_items, narrow_batches, on_device

accelerate = require("accelerate", extra="train")

ComputeMetrics = Callable[[np.ndarray, np.ndarray], dict[str, float]]

OF_LABEL = "f1/"
"""What the names of metrics of one label begin with."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    corpus: Any,
    collator: Any,
    accelerator: accelerate.Accelerator,
    *,
    batch_size: int,
    num_workers: int = 0,
    compute_metrics: ComputeMetrics | None = None,
) -> dict[str, float]:
    """Mean loss over the labels, and the metrics that `compute_metrics` computes from logits and labels.

    Everything random is drawn as in epoch 0, so evaluations of one run compare the same masks.

    Args:
        model: as prepared by `accelerator`; left in evaluation mode.
        corpus: the cells.
        collator: their objective.
        accelerator: of the run.
        batch_size: cells per forward pass and process.
        num_workers: processes that read and encode.
        compute_metrics: `(logits (cells, classes), labels (cells,)) -> {name: value}`; logits of several heads stand
            side by side, as do their labels.

    Raises:
        ConfigurationError: the corpus has no labels that count.
        SclmError: logits are not finite.
    """
    # the bare model: processes may have different numbers of batches
    model = accelerator.unwrap_model(model).eval()
    rank, world_size = accelerator.process_index, accelerator.num_processes
    total = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    outputs: list[tuple[np.ndarray, np.ndarray]] = []
    loader = corpus.loader(
        batch_size, collator=collator, num_workers=num_workers, epoch=0, start=0, rank=rank, world_size=world_size
    )
    for batch in narrow_batches(loader):
        result = model(**on_device(batch, accelerator.device))
        check_loss(result, model, batch)
        items = count_items(batch)
        total += torch.stack([result.loss.double() * items, torch.tensor(float(items), device=total.device)])
        if compute_metrics is not None:
            heads = result.logits if isinstance(result.logits, tuple) else (result.logits,)
            outputs.append((torch.cat(heads, dim=-1).float().cpu().numpy(), batch["labels"].numpy()))
    loss_sum, items = accelerator.reduce(total, reduction="sum").tolist()
    if items == 0:
        raise ConfigurationError("The evaluation corpus has no labels that count: give it more cells.")
    metrics = {"loss": loss_sum / items}
    if compute_metrics is not None:
        logits, labels = zip(*accelerate.utils.gather_object(outputs), strict=True)
        metrics |= compute_metrics(_finite(np.concatenate(logits)), np.concatenate(labels))
    return metrics


def _finite(logits: np.ndarray) -> np.ndarray:
    """The logits, refused where metrics would take NaN for a class."""
    finite = np.isfinite(logits).all(axis=-1)
    if not finite.all():
        raise SclmError(
            f"The model gave logits that are NaN or infinite for {(~finite).sum():,} of {len(logits):,} evaluated "
            "cells: lower `learning_rate` or use `mixed_precision=no`, and resume from an earlier checkpoint."
        )
    return logits


def check_loss(outputs: Any, model: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    """Refuse a forward pass that gave nothing to train on.

    Raises:
        ConfigurationError: the outputs have no loss.
    """
    if getattr(outputs, "loss", None) is None:
        raise ConfigurationError(
            f"`{type(model).__name__}` returned no loss for a batch of {', '.join(sorted(batch))}: train a class with "
            "a head (`…For…`), with the collator of its objective, which gives it `labels`."
        )


def classification_metrics(
    logits: np.ndarray, labels: np.ndarray, label_names: Sequence[str] = ()
) -> dict[str, float]:
    """Accuracy and macro-F1 over the labels that occur; a `compute_metrics` for cell classification.

    Args:
        logits: (cells, labels).
        labels: (cells,) numbers of labels; cells of negative ones are left out.
        label_names: with them, also the F1 of each label that occurs, `f1/<name>`.
    """
    labelled = labels >= 0
    predicted, labels = logits[labelled].argmax(-1), labels[labelled]
    n_labels = logits.shape[-1]
    confusion = np.bincount(labels * n_labels + predicted, minlength=n_labels**2).reshape(n_labels, n_labels)
    metrics = {metric: float(score(confusion, metric)) for metric in METRICS}
    occurring = confusion.sum(axis=0) + confusion.sum(axis=1)
    of_labels = 2 * np.diagonal(confusion) / np.maximum(occurring, 1)
    return metrics | {
        f"{OF_LABEL}{name}": float(of_labels[number]) for number, name in enumerate(label_names) if occurring[number]
    }
