"""From the encoder's vector of a cell to its embedding: CellPLM's latent variables (Wen et al., ICLR 2024).

Each returns the embedding and a loss; noise may be given, for comparisons with recorded draws.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_cellplm import CellPLMConfig

_GUMBEL_EPS, _VARIANCE_EPS, _DENSITY_EPS, _VAE_EPS = 1e-20, 1e-10, 1e-8, 1e-4
_LARGEST_LOG_VARIANCE = 5.0
_SPLIT_WEIGHT = 0.01


class MixtureLatent(nn.Module):
    """A Gaussian for each of some clusters, of which a cell belongs to one: `"gmvae"`.

    In training the cell is shared out among the clusters (Gumbel softmax) and its embedding drawn; in evaluation it
    belongs to one cluster, drawn if `config.stochastic_latent`, and its embedding is the mean.
    """

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        self.config = config
        clusters, width, size = config.num_clusters, config.latent_hidden_size, config.cell_embedding_size
        self.cluster = nn.Linear(config.hidden_size, clusters)
        self.hidden = nn.Linear(config.hidden_size + clusters, width)
        self.mean = nn.Linear(width, size)
        self.variance = nn.Linear(width, size)
        self.prior_mean = nn.Linear(clusters, size)
        self.prior_variance = nn.Linear(clusters, size)

    def forward(
        self, hidden_states: Tensor, uniforms: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        logits = self.cluster(hidden_states)
        cluster = self._cluster(logits, uniforms)
        hidden = F.relu(self.hidden(torch.cat([hidden_states, cluster], dim=-1)))
        mean, variance = self.mean(hidden), F.softplus(self.variance(hidden))
        noise = torch.randn_like(mean) if noise is None and (self.training or self._draws) else noise
        drawn = mean if noise is None else mean + torch.sqrt(variance + _VARIANCE_EPS) * noise.to(mean.dtype)
        loss = self._loss(logits, cluster, drawn, mean, variance)
        return drawn if self.training else mean, loss

    @property
    def _draws(self) -> bool:
        return self.config.stochastic_latent

    def _cluster(self, logits: Tensor, uniforms: Tensor | None) -> Tensor:
        if uniforms is None and self._draws:
            uniforms = torch.rand_like(logits)
        if uniforms is not None:
            gumbel = -torch.log(-torch.log(uniforms.float() + _GUMBEL_EPS) + _GUMBEL_EPS)
            logits = logits + gumbel.to(logits.dtype)
        if self.training:
            return logits.softmax(dim=-1)
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)

    def _loss(self, logits: Tensor, cluster: Tensor, drawn: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        prior_mean, prior_variance = self.prior_mean(cluster), F.softplus(self.prior_variance(cluster))
        gaussian = _log_normal(drawn, mean, variance) - _log_normal(drawn, prior_mean, prior_variance)
        entropy = -(logits.softmax(dim=-1) * logits.log_softmax(dim=-1)).sum(-1)
        categorical = math.log(logits.shape[-1]) - entropy.mean()
        floor = self.config.latent_loss_floor
        return self.config.gaussian_loss_weight * gaussian.mean().clamp(
            min=floor
        ) + self.config.cluster_loss_weight * categorical.clamp(min=floor)


def _log_normal(values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """(cells,) log density of independent normal variables."""
    variance = variance + _DENSITY_EPS
    return -0.5 * (math.log(2 * math.pi) + variance.log() + (values - mean) ** 2 / variance).sum(-1)


class WarmUp(nn.Module):
    """Counts training forwards."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))


class GaussianLatent(nn.Module):
    """One Gaussian a cell: `"vae"`. Its embedding is drawn in training and the mean in evaluation."""

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        self.config = config
        self.mean = nn.Linear(config.hidden_size, config.cell_embedding_size)
        self.log_variance = nn.Linear(config.hidden_size, config.cell_embedding_size)
        self.warm_up = WarmUp()

    def forward(
        self, hidden_states: Tensor, uniforms: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        mean = self.mean(hidden_states)
        if not self.training:
            return mean, mean.new_zeros(())
        bounded = self.log_variance(hidden_states).clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)
        deviation = torch.sqrt(bounded.exp() + _VAE_EPS)
        log_variance = 2 * deviation.log()
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(-1).mean()
        loss = divergence * (self.warm_up.steps / self.config.vae_warmup_steps)
        loss = torch.where(loss < self.config.vae_loss_floor, torch.zeros_like(loss), loss)
        with torch.no_grad():
            self.warm_up.steps.add_(1).clamp_(max=self.config.vae_warmup_steps - 1)
        noise = torch.randn_like(mean) if noise is None else noise
        return mean + deviation * noise.to(mean.dtype), loss


class LinearLatent(nn.Module):
    """A linear map without a loss: `"ae"`."""

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        self.linear = nn.Linear(config.hidden_size, config.cell_embedding_size)

    def forward(
        self, hidden_states: Tensor, uniforms: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.linear(hidden_states), hidden_states.new_zeros(())


class SplitLatent(nn.Module):
    """A continuous and a categorical part, merged: `"split"`. The weights of the continuous part are kept small."""

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        self.continuous = nn.Linear(config.hidden_size, config.num_continuous)
        self.categorical = nn.Linear(config.hidden_size, config.num_categories)
        self.merge = nn.Linear(config.num_continuous + config.num_categories, config.cell_embedding_size)

    def forward(
        self, hidden_states: Tensor, uniforms: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        parts = F.gelu(self.continuous(hidden_states)), self.categorical(hidden_states).softmax(dim=-1)
        weights = list(self.continuous.parameters())
        loss = _SPLIT_WEIGHT * sum(w.abs().sum() + w.norm() for w in weights)
        return self.merge(torch.cat(parts, dim=-1)), loss


LATENTS = {"gmvae": MixtureLatent, "vae": GaussianLatent, "ae": LinearLatent, "split": SplitLatent}
