"""The parts of scMVP's loss, per cell.

Li, Fu, Wang et al. Genome Biology 23, 20 (2022). Where the published code differs from what its formulas need, a
setting says which of both is taken.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-8
LOG_TWO_PI = math.log(2 * math.pi)
CONFIDENCE = 50.0
"""Weight of clear components, and of their shares, within the loss of components."""


class Posterior(NamedTuple):
    """A Gaussian per cell: (cells, latent) means and variances."""

    mean: Tensor
    variance: Tensor

    def draw(self, generator: torch.Generator | None) -> Tensor:
        """(cells, latent) a draw from each."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.variance.sqrt() * noise


def negative_binomial(counts: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    """(cells,) log-likelihood of (cells, genes) counts, given (genes,) inverse dispersions."""
    log_total = (dispersion + mean + EPS).log()
    log_likelihood = (
        dispersion * ((dispersion + EPS).log() - log_total)
        + counts * ((mean + EPS).log() - log_total)
        + torch.lgamma(counts + dispersion)
        - torch.lgamma(dispersion)
        - torch.lgamma(counts + 1)
    )
    return log_likelihood.sum(dim=1)


def zero_inflated_poisson(counts: Tensor, mean: Tensor, dropout: Tensor) -> Tensor:
    """(cells,) log-likelihood of (cells, peaks) counts, given logits of being dropped out."""
    kept = -F.softplus(-dropout)
    of_zero = kept + F.softplus(-dropout - mean)
    of_other = kept - dropout - mean + counts * (mean + EPS).log() - torch.lgamma(counts + 1)
    return torch.where(counts > 0, of_other, of_zero).sum(dim=1)


def absolute_error(counts: Tensor, mean: Tensor) -> Tensor:
    """(cells,) half the distance of the means from counts that are not 0."""
    return 0.5 * ((counts - mean).abs() * (counts > 0)).sum(dim=1)


def shrunk_at_zeros(counts: Tensor, mean: Tensor) -> Tensor:
    """(cells,) a twentieth of the means where nothing is open."""
    return 0.05 * (mean * (counts == 0)).sum(dim=1)


def agreement_of_components(components: Tensor, again: Tensor, *, of_softmax: bool) -> Tensor:
    """(cells,) cross-entropy of (cells, components) probabilities and those of the reconstruction.

    Args:
        components: of the cells.
        again: of their reconstruction.
        of_softmax: whether both go through a softmax before, as published.
    """
    if of_softmax:
        components, again = components.softmax(dim=1), again.softmax(dim=1)
    # rounding may take a probability just above 1
    again = again.clamp(max=1.0)
    return -(components * (again + 1e-6).log() + (1 - components) * (1 - again + 1e-6).log()).sum(dim=1)


def unclear_components(components: Tensor, *, prefer_few: bool) -> Tensor:
    """(cells,) a loss that falls when each cell is of one component, and all cells spread over them.

    Args:
        components: (cells, components) probabilities.
        prefer_few: whether it falls when cells crowd in one component instead, as published.
    """
    shares = components.mean(dim=0)
    entropy = -(shares * shares.log()).sum()
    return CONFIDENCE * ((entropy if prefer_few else -entropy) - components.square().sum(dim=1))


def divergence(one: Posterior, other: Posterior) -> Tensor:
    """(cells,) the Kullback-Leibler divergence of one Gaussian from another."""
    ratio = one.variance / other.variance
    squares = (one.mean - other.mean).square() / other.variance
    return 0.5 * (ratio + squares - 1 - ratio.log()).sum(dim=1)


def mixture_loss(
    posterior: Posterior,
    components: Tensor,
    mixture: tuple[Tensor, Tensor, Tensor],
    *,
    variance_as_log_variance: bool,
) -> Tensor:
    """(cells,) the divergence of a posterior from the mixture, its components being those given.

    Args:
        posterior: of the cells.
        components: (cells, components) probabilities.
        mixture: (components,) weights, and (latent, components) means and variances.
        variance_as_log_variance: whether the variance stands where its logarithm should, as published.
    """
    weight, mean, variance = mixture
    spread, log_spread = posterior.variance, posterior.variance.log()
    if variance_as_log_variance:
        spread, log_spread = posterior.variance.exp(), posterior.variance
    squares = (spread.unsqueeze(-1) + (posterior.mean.unsqueeze(-1) - mean).square()) / variance
    of_latent = -0.5 * (components * (LOG_TWO_PI + variance.log() + squares).sum(dim=1)).sum(dim=1)
    of_component = (components * weight.log()).sum(dim=1)
    entropy = 0.5 * (1 + log_spread + LOG_TWO_PI).sum(dim=1)
    chosen = (components * components.log()).sum(dim=1)
    return chosen - of_latent - of_component - entropy
