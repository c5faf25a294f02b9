"""Losses of CellPLM, and how its samples count in a step."""

import torch
from torch import Tensor

from sclm_hf.modeling.common.losses import IGNORE, check_targets, counts, mean_over_targets

_COUNT_EPS = 1e-10
_TARGET_SUM = 1e4


def negative_binomial_nll(counts: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    """(cells, genes) negative log-likelihood of counts."""
    counts, mean, dispersion = counts.float(), mean.float(), dispersion.float()
    inverse = dispersion + _COUNT_EPS
    combinations = torch.lgamma(inverse) + torch.lgamma(counts + 1) - torch.lgamma(counts + inverse)
    likelihood = (dispersion + counts) * torch.log1p(mean / inverse) + counts * (
        inverse.log() - (mean + _COUNT_EPS).log()
    )
    return combinations + likelihood


def rescaled(mean: Tensor, counts: Tensor) -> Tensor:
    """Means that add up in each cell to what the counts do; 0 in cells where nothing is asked for."""
    # nothing hidden: 0 / 0 would have no gradient
    total = mean.sum(1, keepdim=True).clamp(min=torch.finfo(mean.dtype).tiny)
    return mean * (counts.sum(1, keepdim=True) / total)


def share_of_step(labels: Tensor, num_items: Tensor | int | None) -> Tensor | float:
    """What a sample's mean loss counts in a step over several samples: its share of the labels.

    Args:
        labels: of one sample, -100 where there is none.
        num_items: the labels of the step; None = the sample is the step.
    """
    return 1.0 if num_items is None else counts(labels).sum() / num_items


def regression(
    objective: str, prediction: Tensor, labels: Tensor | None, masked: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Prediction and loss of the heads that tell expression.

    Args:
        objective: `"imputation"`, `"denoising"` or `"perturbation"`.
        prediction: `(cells, genes)`.
        labels, masked: as for `CellPLMForExpressionRegression`.
    """
    masked = torch.ones_like(prediction) if masked is None else masked.to(prediction.dtype)
    if objective == "perturbation":
        prediction = prediction * masked
    if labels is None:
        return prediction, None
    check_targets(labels, prediction)
    known, labels = labels != IGNORE, labels.float()
    if objective == "denoising":
        # a cell without counts: 0 / 0
        total = labels.sum(1, keepdim=True).clamp(min=torch.finfo(labels.dtype).tiny)
        labels = torch.log1p(labels / total * _TARGET_SUM)
        error = (prediction - labels) ** 2
        return prediction, mean_over_targets(error * masked + error, known)
    labels = labels * masked if objective == "perturbation" else labels
    return prediction, mean_over_targets((prediction - labels) ** 2, known)
