"""Losses over genes and cells that more than one family uses.

Element-wise losses are sums divided by `num_items_in_batch` where the trainer gives it (the number of targets over the
whole accumulation window and all processes), and means over the targets otherwise. Targets equal to -100 are ignored.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100


def mean_over_targets(values: Tensor, is_target: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Sum of `values` where `is_target`, divided by the number of targets (at least 1)."""
    total = torch.where(is_target, values, 0.0).sum()
    count = is_target.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    if isinstance(count, Tensor):
        count = count.to(total.device)
    return total / count


def masked_mse(prediction: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Mean squared error over the targets; `prediction` and `labels` are `(batch, genes)`."""
    error = (prediction.float() - labels.float()) ** 2
    return mean_over_targets(error, labels != IGNORE, num_items_in_batch)


def masked_nonzero_nll(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Negative log-likelihood of "this gene is expressed" over the targets; `logits` are `(batch, genes)`."""
    nll = F.binary_cross_entropy_with_logits(logits.float(), (labels > 0).float(), reduction="none")
    return mean_over_targets(nll, labels != IGNORE, num_items_in_batch)


def cross_entropy(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Mean cross entropy over the targets; `logits` are `(targets, classes)`, `labels` `(targets,)` class numbers."""
    nll = F.cross_entropy(logits.float(), labels, reduction="none", ignore_index=IGNORE)
    return mean_over_targets(nll, labels != IGNORE, num_items_in_batch)


def masked_relative_error(prediction: Tensor, labels: Tensor) -> Tensor:
    """Mean of `|prediction - label| / (label + 1e-6)` over the targets (a metric, not a loss)."""
    error = (prediction - labels).abs() / (labels + 1e-6)
    return mean_over_targets(error, labels != IGNORE)


def elastic_cell_similarity(cell_embedding: Tensor, threshold: float) -> Tensor:
    """ECS of scGPT: pushes the cosine similarity of every pair of cells away from `threshold`.

    The diagonal is set to 0, negative similarities are clipped, and the mean runs over all B² pairs.
    `cell_embedding` is `(batch, hidden)`.
    """
    normalized = F.normalize(cell_embedding.float(), dim=-1)
    similarity = normalized @ normalized.T
    similarity = similarity * (1 - torch.eye(len(similarity), device=similarity.device))
    return (1 - (F.relu(similarity) - threshold) ** 2).mean()


def contrastive_cell_embedding(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """CCE of scGPT: each cell must recognise its own second dropout view; both are `(batch, hidden)`."""
    similarity = F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).T
    return F.cross_entropy(similarity / temperature, torch.arange(len(first), device=first.device))


def reverse_gradient(tensor: Tensor) -> Tensor:
    """The same values with the gradient negated (Ganin & Lempitsky, 2015, λ = 1)."""
    return 2 * tensor.detach() - tensor
