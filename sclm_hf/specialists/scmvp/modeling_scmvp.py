"""scMVP: a variational autoencoder of RNA and ATAC of the same cells, whose latent is a mixture of Gaussians.

Li, Fu, Wang et al. A deep generative model for multi-view profiling of single-cell RNA-seq and ATAC-seq data. Genome
Biology 23, 20 (2022). doi:10.1186/s13059-021-02595-6
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import ModelOutput, auto_docstring, can_return_tuple

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.base import PlainPreTrainedModel
from sclm_hf.modeling.common.initialization import draw_linear

from .configuration_scmvp import ScMVPConfig
from .losses_scmvp import (
    Posterior,
    absolute_error,
    agreement_of_components,
    divergence,
    mixture_loss,
    negative_binomial,
    shrunk_at_zeros,
    unclear_components,
    zero_inflated_poisson,
)

VARIANCE_EPS = 1e-4


@dataclass
class ScMVPOutput(ModelOutput):
    """What scMVP says of cells.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Scalar, when asked for.
        cell_embedding (`torch.FloatTensor`):
            `(cells, latent_size)` mean of the latent that both modalities share.
        variance (`torch.FloatTensor`):
            `(cells, latent_size)` its variance.
        components (`torch.FloatTensor`):
            `(cells, num_components)` probabilities of the components of the mixture.
        rna_mean (`torch.FloatTensor`):
            `(cells, genes)` expected counts of RNA.
        atac_mean (`torch.FloatTensor`):
            `(cells, peaks)` expected counts of open peaks where a peak is not dropped out.
        atac_dropout (`torch.FloatTensor`):
            `(cells, peaks)` logits of being dropped out.
        cell_losses (`torch.FloatTensor`, *optional*):
            `(cells, 2)` reconstruction, and what keeps the latent near the mixture, of each cell, when a loss is asked
            for.
    """

    loss: torch.FloatTensor | None = None
    cell_embedding: torch.FloatTensor | None = None
    variance: torch.FloatTensor | None = None
    components: torch.FloatTensor | None = None
    rna_mean: torch.FloatTensor | None = None
    atac_mean: torch.FloatTensor | None = None
    atac_dropout: torch.FloatTensor | None = None
    cell_losses: torch.FloatTensor | None = None


class Decoded(NamedTuple):
    """What a latent is decoded to.

    Attributes:
        rna_scale: (cells, genes) shares of the genes.
        rna_mean: (cells, genes) expected counts.
        atac_scale: (cells, peaks) how much a peak opens.
        atac_mean: (cells, peaks) expected counts.
        atac_dropout: (cells, peaks) logits.
        rna_hidden, atac_hidden: (cells, hidden) what these are read from.
    """

    rna_scale: Tensor
    rna_mean: Tensor
    atac_scale: Tensor
    atac_mean: Tensor
    atac_dropout: Tensor
    rna_hidden: Tensor
    atac_hidden: Tensor


class BatchNorm(nn.BatchNorm1d):
    """A batch norm that takes a batch of a single cell in training, with the statistics of the cells before."""

    def forward(self, cells: Tensor) -> Tensor:
        if len(cells) > 1 or not self.training:
            return super().forward(cells)
        return F.batch_norm(cells, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class HiddenLayer(nn.Module):
    """A linear layer, normalised over the cell and then over the batch.

    Args:
        n_in: width of the input.
        n_out: width of the output.
        dropout: share of the output that is dropped in training.
        is_rectified_twice: whether it is rectified between the norms, too.
    """

    def __init__(self, n_in: int, n_out: int, dropout: float = 0.0, *, is_rectified_twice: bool = False):
        super().__init__()
        self.dense = nn.Linear(n_in, n_out)
        self.norm = nn.LayerNorm(n_out, eps=1e-4)
        self.batch_norm = BatchNorm(n_out, eps=1e-4, momentum=0.01)
        self.dropout = nn.Dropout(dropout)
        self.is_rectified_twice = is_rectified_twice

    def forward(self, cells: Tensor) -> Tensor:
        hidden = self.norm(self.dense(cells))
        if self.is_rectified_twice:
            hidden = F.leaky_relu(hidden)
        return self.dropout(F.leaky_relu(self.batch_norm(hidden)))


class ScalarAttention(nn.Module):
    """Attention among the numbers of a hidden vector: each is a token, and each head has its part of them."""

    def __init__(self, size: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(size, size) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """(cells, size) in and out."""
        query, key, value = (
            projection(hidden).unflatten(1, (self.num_heads, -1)).unsqueeze(-1)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        weights = self.dropout((query @ key.transpose(-1, -2)).softmax(dim=-1))
        return (weights @ value).flatten(1)


class LinearPair(nn.Sequential):
    """Two linear layers with nothing between, as published."""

    def __init__(self, n_in: int, n_inner: int, n_out: int):
        super().__init__(nn.Linear(n_in, n_inner), nn.Linear(n_inner, n_out))


class RNAEncoder(nn.Module):
    """The hidden vector of RNA, gated by a second one."""

    def __init__(self, config: ScMVPConfig):
        super().__init__()
        self.layer = HiddenLayer(config.num_genes, config.hidden_size, config.hidden_dropout_prob)
        self.gate = LinearPair(config.num_genes, config.hidden_size, config.hidden_size)

    def forward(self, rna: Tensor) -> Tensor:
        return self.layer(rna) * self.gate(rna).sigmoid()


class ATACEncoder(nn.Module):
    """The hidden vector of ATAC, whose numbers attend to one another."""

    def __init__(self, config: ScMVPConfig):
        super().__init__()
        self.layer = HiddenLayer(config.num_peaks, config.hidden_size, config.hidden_dropout_prob)
        self.attention = ScalarAttention(config.hidden_size, config.num_attention_heads, config.hidden_dropout_prob)

    def forward(self, atac: Tensor) -> Tensor:
        return self.attention(self.layer(atac))


class PosteriorHead(nn.Module):
    """Mean and variance of a latent."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.mean = nn.Linear(n_in, n_out)
        self.log_variance = nn.Linear(n_in, n_out)

    def forward(self, hidden: Tensor) -> Posterior:
        return Posterior(self.mean(hidden), self.log_variance(hidden).exp() + VARIANCE_EPS)


class JointEncoder(nn.Module):
    """The hidden vectors of both modalities, joined."""

    def __init__(self, config: ScMVPConfig):
        super().__init__()
        self.rna, self.atac = RNAEncoder(config), ATACEncoder(config)
        self.joined = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-4)

    def forward(self, rna: Tensor, atac: Tensor) -> Tensor:
        return self.norm(self.joined(torch.cat([self.rna(rna), self.atac(atac)], dim=1)))


class Decoder(nn.Module):
    """From a latent and its components to the expected counts of both modalities."""

    def __init__(self, config: ScMVPConfig):
        super().__init__()
        size, latent, genes, peaks = config.hidden_size, config.latent_size, config.num_genes, config.num_peaks
        self.components = HiddenLayer(config.num_components, size, is_rectified_twice=True)
        self.rna_layer, self.atac_layer = HiddenLayer(latent, size), HiddenLayer(latent, size)
        self.attention = ScalarAttention(size, config.num_attention_heads, config.decoder_dropout_prob)
        self.rna_scale = LinearPair(size, 2 * size, genes)
        self.atac_scale = LinearPair(size, 4 * size, peaks)
        self.rna_gate, self.atac_gate = LinearPair(latent, size, genes), LinearPair(latent, size, peaks)
        self.atac_dropout = nn.Linear(size, peaks)
        if config.has_unused_parts:
            self.rna_dropout, self.rna_dispersion = nn.Linear(size, genes), nn.Linear(size, genes)
            self.atac_dispersion = nn.Linear(size, peaks)

    def forward(self, latent: Tensor, components: Tensor, rna_size: Tensor, atac_size: Tensor) -> Decoded:
        """Sizes are (cells, 1), the counts of each cell."""
        gate = self.components(components).sigmoid()
        rna = self.rna_layer(latent) * gate
        atac = self.attention(self.atac_layer(latent)) * gate
        rna_scale = self.rna_scale(rna).softmax(dim=-1)
        atac_scale = self.atac_scale(atac).sigmoid() * self.atac_gate(latent).softmax(dim=-1)
        return Decoded(
            rna_scale=rna_scale,
            rna_mean=rna_size * rna_scale * self.rna_gate(latent).sigmoid(),
            atac_scale=atac_scale,
            atac_mean=atac_size * atac_scale,
            atac_dropout=self.atac_dropout(atac),
            rna_hidden=rna,
            atac_hidden=atac,
        )


class Mixture(nn.Module):
    """The Gaussians that the latent is drawn from."""

    def __init__(self, config: ScMVPConfig):
        super().__init__()
        shape = (config.latent_size, config.num_components)
        self.weight = nn.Parameter(torch.full(shape[1:], 1 / shape[1]))
        self.mean, self.variance = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.ones(shape))
        self.is_normalized, self.has_floor = config.normalize_mixture, config.has_density_floor

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """(components,) weights, and (latent, components) means and variances."""
        weight = self.weight.abs() + 1e-10
        if self.is_normalized:
            weight = weight / weight.sum()
        return weight, self.mean, self.variance.abs() + 1e-10

    def forward(self, latent: Tensor) -> Tensor:
        """(cells, components) probability of each component, given (cells, latent)."""
        weight, mean, variance = self.parts()
        squares = (latent.unsqueeze(-1) - mean).square() / (2 * variance)
        logs = weight.log() - (0.5 * (2 * math.pi * variance).log() + squares).sum(dim=1)
        if not self.has_floor:
            # a loss takes their logarithms
            return logs.softmax(dim=1).clamp(min=1e-10)
        probability = logs.exp() + 1e-10
        return probability / probability.sum(dim=1, keepdim=True)


class LibraryEncoder(nn.Module):
    """The size of a cell from its RNA; the published loss never reads it."""

    def __init__(self, config: ScMVPConfig):
        super().__init__()
        self.dense = nn.Linear(config.num_genes, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-4)
        self.head = PosteriorHead(config.hidden_size, 1)

    def forward(self, rna: Tensor) -> Posterior:
        return self.head(F.relu(self.norm(self.dense(rna))))


@auto_docstring
class ScMVPPreTrainedModel(PlainPreTrainedModel):
    config: ScMVPConfig
    main_input_name = "rna"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            draw_linear(module)
        elif isinstance(module, Mixture):
            init.constant_(module.weight, 1 / len(module.weight))
            init.normal_(module.mean, std=self.config.component_deviation)
            init.ones_(module.variance)
        elif isinstance(module, ScMVPModel):
            init.normal_(module.rna_log_dispersion)
        else:
            super()._init_weights(module)


@auto_docstring(custom_intro="The encoders, the mixture and the decoder: counts of two modalities in and out.")
class ScMVPModel(ScMVPPreTrainedModel):
    accepts_loss_kwargs = False
    _untrained = (r"library_encoder\.", r"decoder\.(rna_dropout|rna_dispersion|atac_dispersion)\.")

    def __init__(self, config: ScMVPConfig):
        super().__init__(config)
        size, latent = config.hidden_size, config.latent_size
        self.rna_encoder, self.atac_encoder = RNAEncoder(config), ATACEncoder(config)
        self.joint_encoder = JointEncoder(config)
        self.rna_head, self.atac_head, self.joint_head = (PosteriorHead(size, latent) for _ in range(3))
        self.concatenated = nn.Linear(2 * latent, latent)
        self.mixture = Mixture(config)
        self.decoder = Decoder(config)
        self.rna_log_dispersion = nn.Parameter(torch.zeros(config.num_genes))
        self.library_encoder = LibraryEncoder(config) if config.has_unused_parts else None
        self.post_init()

    def single_posteriors(self, rna: Tensor, atac: Tensor) -> tuple[Posterior, Posterior, Posterior]:
        """The latents of RNA and of ATAC alone, given log(1 + counts), and one made of both."""
        of_rna, of_atac = self.rna_head(self.rna_encoder(rna)), self.atac_head(self.atac_encoder(atac))
        mean = self.concatenated(torch.cat([of_rna.mean, of_atac.mean], dim=1))
        log_variance = self.concatenated(torch.cat([of_rna.variance.log(), of_atac.variance.log()], dim=1))
        return of_rna, of_atac, Posterior(mean, log_variance.exp())

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        rna: torch.FloatTensor,
        atac: torch.FloatTensor,
        kl_weight: torch.FloatTensor | float = 1.0,
        return_loss: bool | None = None,
        sample: bool | None = None,
        generator: torch.Generator | None = None,
        **kwargs,
    ) -> ScMVPOutput:
        r"""
        rna (`torch.FloatTensor` of shape `(cells, genes)`):
            Counts of the genes of the processor, in its order.
        atac (`torch.FloatTensor` of shape `(cells, peaks)`):
            Open peaks of the processor, in its order, as 1.
        kl_weight (`torch.FloatTensor` or `float`, *optional*, defaults to 1.0):
            Weight of the part of the loss that keeps the latent near the mixture.
        return_loss (`bool`, *optional*):
            Whether to compute the loss; by default in training.
        sample (`bool`, *optional*):
            Whether to decode a draw from the latent, and not its mean; by default in training.
        generator (`torch.Generator`, *optional*):
            Source of the draws; torch's global one by default.
        """
        self._check(rna, atac)
        rna, atac = rna.to(self.dtype), atac.to(self.dtype)
        seen = rna.log1p(), atac.log1p()
        joint = self.joint_head(self.joint_encoder(*seen))
        latent = joint.draw(generator) if (self.training if sample is None else sample) else joint.mean
        components = self.mixture(latent)
        decoded = self.decoder(latent, components, rna.sum(1, keepdim=True), atac.sum(1, keepdim=True))
        losses = None
        if self.training if return_loss is None else return_loss:
            losses = self._losses(rna, atac, seen, joint, components, decoded)
        return ScMVPOutput(
            loss=None if losses is None else (losses[:, 0] + kl_weight * losses[:, 1]).mean(),
            cell_embedding=joint.mean,
            variance=joint.variance,
            components=components,
            rna_mean=decoded.rna_mean,
            atac_mean=decoded.atac_mean,
            atac_dropout=decoded.atac_dropout,
            cell_losses=losses,
        )

    def _losses(
        self,
        rna: Tensor,
        atac: Tensor,
        seen: tuple[Tensor, Tensor],
        joint: Posterior,
        components: Tensor,
        decoded: Decoded,
    ) -> Tensor:
        """(cells, 2) the reconstruction, and what keeps the latent near the mixture."""
        config = self.config
        *_, of_both = self.single_posteriors(*seen)
        *_, again = self.single_posteriors(decoded.rna_mean.log1p(), decoded.atac_mean.log1p())
        of_rna = self.rna_loss(rna, decoded)
        of_atac = self.atac_loss(atac, decoded)
        of_components = agreement_of_components(
            components, self.mixture(again.mean), of_softmax=config.softmax_of_components
        ) + unclear_components(components, prefer_few=config.prefer_few_components)
        near = mixture_loss(
            joint,
            components,
            self.mixture.parts(),
            variance_as_log_variance=config.variance_as_log_variance,
        )
        agreement = divergence(joint, of_both) + divergence(of_both, again)
        reconstruction = config.rna_weight * of_rna + config.atac_weight * of_atac
        return torch.stack(
            [
                reconstruction + config.clustering_weight * of_components,
                near + config.agreement_weight * agreement,
            ],
            dim=1,
        )

    def rna_loss(self, rna: Tensor, decoded: Decoded) -> Tensor:
        """(cells,) how badly the counts of RNA are told."""
        dispersion = self.rna_log_dispersion.exp()
        return absolute_error(rna, decoded.rna_mean) - negative_binomial(rna, decoded.rna_mean, dispersion)

    def atac_loss(self, atac: Tensor, decoded: Decoded) -> Tensor:
        """(cells,) how badly the open peaks are told."""
        mean, dropout = decoded.atac_mean, decoded.atac_dropout
        told = absolute_error(atac, mean) - zero_inflated_poisson(atac, mean, dropout)
        return told + shrunk_at_zeros(atac, mean)

    def _check(self, rna: Tensor, atac: Tensor) -> None:
        """Refuse what are not the counts of the same cells."""
        sizes = {"rna": (rna, self.config.num_genes, "genes"), "atac": (atac, self.config.num_peaks, "peaks")}
        for name, (values, size, what) in sizes.items():
            if tuple(values.shape) != (len(rna), size):
                raise ConfigurationError(
                    f"`{name}` must be (cells, {size} {what}) of the same cells as `rna`, as the processor makes "
                    f"them; got {tuple(values.shape)}."
                )


__all__ = ["ScMVPModel", "ScMVPPreTrainedModel"]
