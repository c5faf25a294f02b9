"""What the released CellPLM are made of: flow attention over cells, latent variables, and the decoder of counts."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from sclm_hf.modeling.common.attention.flow import flow_attention

from .configuration_cellplm import CellPLMConfig

COVARIATES = ("batch", "dataset", "platform")
DECODED_WIDTH = 128
_MEANS, _DISPERSIONS = (1e-5, 1e6), (1e-4, 1e4)
_GUMBEL_EPS, _VARIANCE_EPS, _DENSITY_EPS, _VAE_EPS = 1e-20, 1e-10, 1e-8, 1e-4
_LARGEST_LOG_VARIANCE = 5.0


class GroupNorm(nn.GroupNorm):
    """Normalises quarters of the channels of each cell."""

    def __init__(self, size: int):
        super().__init__(4, size)


def make_norm(kind: str, size: int) -> nn.Module:
    """The normalisation that a configuration names, over the channels of a cell."""
    kinds = {"groupnorm": GroupNorm, "layernorm": nn.LayerNorm, "none": nn.Identity}
    return nn.RMSNorm(size, eps=1e-6) if kind == "rmsnorm" else kinds[kind](size)


def covariate_sizes(config: CellPLMConfig) -> dict[str, int]:
    """Covariates that the decoder knows, and how many values each has."""
    sizes = zip(COVARIATES, (config.num_batches, config.num_datasets, config.num_platforms), strict=True)
    return {name: size for name, size in sizes if size > 0}


class GeneRows(nn.Module):
    """A linear map with a row for each gene, of which those asked for are read.

    It is no `nn.Linear`: tools that wrap one, to adapt or quantise it, expect calls of the whole map.
    """

    def __init__(self, in_features: int, count: int):
        super().__init__()
        self.in_features = in_features
        linear = nn.Linear(in_features, count)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, hidden_states: Tensor, genes: Tensor) -> Tensor:
        return F.linear(hidden_states, self.weight[genes], self.bias[genes])


def with_rows(table: GeneRows | nn.Embedding, count: int) -> GeneRows | nn.Embedding:
    """The same table with `count` rows; new ones are 0."""
    old = table.weight
    if isinstance(table, nn.Embedding):
        larger = nn.Embedding(count, old.shape[1])
    else:
        larger = GeneRows(old.shape[1], count)
    larger.to(old.device, old.dtype)
    with torch.no_grad():
        kept = min(count, len(old))
        for ours, theirs in zip(larger.parameters(), table.parameters(), strict=True):
            ours.zero_()[:kept] = theirs[:kept]
    return larger


class Block(nn.Module):
    """A hidden layer: linear map, PReLU, dropout, normalisation."""

    def __init__(self, config: CellPLMConfig, width: int, size: int):
        super().__init__()
        self.linear = nn.Linear(width, size)
        self.activation = nn.PReLU()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.norm = make_norm(config.norm, size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.norm(self.dropout(self.activation(self.linear(hidden_states))))


class CovariateEmbedding(nn.Module):
    """What a covariate adds to a hidden layer."""

    def __init__(self, config: CellPLMConfig, count: int, size: int):
        super().__init__()
        self.missing = config.missing_covariate
        self.embedding = nn.Embedding(count, size)
        self.activation = nn.PReLU()
        self.norm = make_norm(config.norm, size)

    def forward(self, labels: Tensor | None) -> Tensor:
        if labels is not None:
            found = self.embedding(labels)
        else:
            table = self.embedding.weight.detach()
            found = (table.sum(0) if self.missing == "sum" else table.mean(0)).unsqueeze(0)
        return self.norm(self.activation(found))


class Decoder(nn.Module):
    """Something with a row for each gene in its last layers."""

    gene_tables: tuple[str, ...] = ("output",)

    def resize(self, vocab_size: int) -> None:
        """Decode as many genes."""
        for name in self.gene_tables:
            setattr(self, name, with_rows(getattr(self, name), vocab_size))


class NegativeBinomialDecoder(Decoder):
    """Mean and dispersion of a negative binomial distribution for each gene: `"nbmlp"`."""

    gene_tables = ("mean", "dispersion")

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        width, sizes = config.decoder_hidden_size, covariate_sizes(config)
        widths = [config.cell_embedding_size] + [width] * (config.num_decoder_layers - 1)
        self.layers = nn.ModuleList(Block(config, before, width) for before in widths[:-1])
        self.covariates = nn.ModuleList(
            nn.ModuleDict({name: CovariateEmbedding(config, size, width) for name, size in sizes.items()})
            for _ in widths[:-1]
        )
        self.hidden = nn.Linear(width, DECODED_WIDTH)
        self.mean = GeneRows(DECODED_WIDTH, config.vocab_size)
        self.dispersion = nn.Embedding(config.vocab_size, 1)

    def forward(
        self, cell_embedding: Tensor, genes: Tensor, covariates: dict[str, Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """(cells, genes) means and (genes,) dispersions of the counts of `genes`."""
        hidden_states = cell_embedding
        for layer, added in zip(self.layers, self.covariates, strict=True):
            hidden_states = layer(hidden_states)
            for name, embedding in added.items():
                hidden_states = hidden_states + embedding(covariates.get(name))
        hidden_states = F.relu(self.hidden(hidden_states))
        mean = self.mean(hidden_states, genes)
        dispersion = self.dispersion(genes).squeeze(-1)
        return mean.exp().clamp(*_MEANS), dispersion.exp().clamp(*_DISPERSIONS)


def in_chunks(function, hidden_states: Tensor, chunk_size: int | None) -> Tensor:
    """What `function` makes of (1, cells, …), `chunk_size` cells at a time where no gradient is asked for."""
    if chunk_size is None or torch.is_grad_enabled() or hidden_states.shape[1] <= chunk_size:
        return function(hidden_states)
    return torch.cat([function(chunk) for chunk in hidden_states.split(chunk_size, dim=1)], dim=1)


class CellAttention(nn.Module):
    """Flow attention of cells to one another."""

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        self.config, size = config, config.hidden_size
        self.head_dim = size // config.num_attention_heads
        self.q_proj, self.k_proj = nn.Linear(size, size), nn.Linear(size, size)
        self.v_proj, self.o_proj = nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (
            # not by the number of heads, which are divided where a plan spreads them over processes
            project(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.o_proj(self.attend(query, key, value, mask).transpose(1, 2).flatten(2))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """What cells attend to, `(1, heads, cells, head)` like query, key and value."""
        return flow_attention(query, key, value, mask=mask, chunk_size=self.config.chunk_size)


class CellLayer(GradientCheckpointingLayer):
    """Attention and a feed-forward part, each behind a normalisation: `"flowformer"`."""

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        self.config, size = config, config.hidden_size
        self.norm1, self.norm2 = self.make_norm(), self.make_norm()
        self.self_attn = self.make_attention()
        self.linear1, self.linear2 = self.make_linear(size, 2 * size), self.make_linear(2 * size, size)
        self.attention_dropout = nn.Dropout(config.attention_dropout_prob)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def make_norm(self) -> nn.Module:
        return nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)

    def make_attention(self) -> nn.Module:
        return CellAttention(self.config)

    def make_linear(self, in_features: int, out_features: int) -> nn.Module:
        return nn.Linear(in_features, out_features)

    @property
    def chunk_size(self) -> int | None:
        return self.config.chunk_size

    def forward(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        """`(cells, hidden)` again; `mask` is `(1, cells)`."""
        hidden_states = hidden_states.unsqueeze(0)
        hidden_states = hidden_states + self.attend(self.norm1(hidden_states), mask)
        return (hidden_states + in_chunks(self._feed_forward, hidden_states, self.chunk_size)).squeeze(0)

    def attend(self, normed: Tensor, mask: Tensor | None) -> Tensor:
        return self.dropout(self.attention_dropout(self.self_attn(normed, mask)))

    def _feed_forward(self, hidden_states: Tensor) -> Tensor:
        inner = self.dropout(F.gelu(self.linear1(self.norm2(hidden_states))))
        return self.dropout(self.linear2(inner))


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
    """One Gaussian per cell: `"vae"`. Its embedding is drawn in training and the mean in evaluation."""

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
