"""Parts of CellPLM that its authors' code offers and no release uses: encoders, a latent variable and decoders."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from sclm_hf.modeling.common.attention.cosformer import cosformer_attention
from sclm_hf.modeling.common.performer import PerformerAttention

from .configuration_cellplm import CellPLMConfig
from .modeling_cellplm_layers import Block, CellAttention, CellLayer, Decoder, GeneRows, covariate_sizes

_PERFORMER_NORM_EPS, _SPECTRAL_EPS = 1e-6, 1e-12
_SPLIT_WEIGHT = 0.01


class CosformerAttention(CellAttention):
    """Attention by cosine weights of the places of cells."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        chunk_size = self.config.chunk_size
        return cosformer_attention(F.gelu(query), F.gelu(key), value, mask=mask, chunk_size=chunk_size)


class SoftmaxAttention(CellAttention):
    """Softmax attention."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        mask = None if mask is None else mask.bool()[:, None, None]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class CosformerLayer(CellLayer):
    """A layer with cosformer attention: `"cosformer"`."""

    def make_attention(self) -> nn.Module:
        return CosformerAttention(self.config)

    def attend(self, normed: Tensor, mask: Tensor | None) -> Tensor:
        return self.dropout(self.self_attn(normed, mask))


class SpectralLayer(CosformerLayer):
    """A layer with softmax attention and a spectrally normalised feed-forward part: `"transformer"`."""

    def make_attention(self) -> nn.Module:
        return SoftmaxAttention(self.config)

    def make_norm(self) -> nn.Module:
        return nn.RMSNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)

    def make_linear(self, in_features: int, out_features: int) -> nn.Module:
        return SpectralLinear(in_features, out_features)

    @property
    def chunk_size(self) -> None:
        # each call of a spectrally normalised map moves its estimate
        return None


class PerformerLayer(CellLayer):
    """A layer with Performer attention: `"performer"`."""

    def make_norm(self) -> nn.Module:
        return nn.RMSNorm(self.config.hidden_size, eps=_PERFORMER_NORM_EPS)

    def make_attention(self) -> nn.Module:
        config = self.config
        return PerformerAttention(
            config.hidden_size, config.num_attention_heads, config.head_dim, config.num_random_features, bias=False
        )

    def attend(self, normed: Tensor, mask: Tensor | None) -> Tensor:
        return self.self_attn(normed, mask, "batch")[0]


class SpectralLinear(nn.Module):
    """A linear map whose largest singular value is a parameter.

    It is no `nn.Linear`, so that tools that add to the weight of one, or quantise it, leave it alone.

    The present value is estimated by one step of power iteration per forward, in evaluation too: as in the original,
    the first calls differ a little from one another.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.in_features = in_features
        linear = nn.Linear(in_features, out_features)
        self.weight, self.bias = linear.weight, linear.bias
        self.sigma = nn.Parameter(torch.ones(1))
        self.register_buffer("u", F.normalize(torch.randn(in_features), dim=0))
        self.register_buffer("spectral_norm", torch.ones(()))

    def forward(self, hidden_states: Tensor) -> Tensor:
        with torch.no_grad():
            left = F.normalize(self.weight @ self.u, dim=0, eps=_SPECTRAL_EPS)
            right = F.normalize(self.weight.T @ left, dim=0, eps=_SPECTRAL_EPS)
            self.u.copy_(right)
        value = left @ self.weight @ right
        with torch.no_grad():
            self.spectral_norm.copy_(value)
        return F.linear(hidden_states, self.sigma / value * self.weight, self.bias)


class MLPLayer(GradientCheckpointingLayer):
    """A hidden layer added to its input; each cell alone."""

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        self.config = config
        self.block = Block(config, config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        return hidden_states + self.block(hidden_states)


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


class MLPDecoder(Decoder):
    """Counts or z-scores directly, with one-hot covariates beside the input of each hidden layer: `"mlp"`."""

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        self.activation = nn.Identity() if config.input_encoding == "zscored" else nn.ReLU()
        width, self.sizes = config.decoder_hidden_size, covariate_sizes(config)
        widths = [config.cell_embedding_size] + [width] * (config.num_decoder_layers - 1)
        beside = sum(self.sizes.values())
        self.layers = nn.ModuleList(Block(config, before + beside, width) for before in widths[:-1])
        self.output = GeneRows(widths[-1], config.vocab_size)

    def forward(
        self, cell_embedding: Tensor, genes: Tensor, covariates: dict[str, Tensor | None]
    ) -> tuple[Tensor, None]:
        beside = [self._one_hot(name, size, covariates, cell_embedding) for name, size in self.sizes.items()]
        hidden_states = cell_embedding
        for layer in self.layers:
            hidden_states = layer(torch.cat([hidden_states, *beside], dim=-1))
        return self.activation(self.output(hidden_states, genes)), None

    def _one_hot(self, name: str, size: int, covariates: dict[str, Tensor | None], like: Tensor) -> Tensor:
        if covariates.get(name) is None:
            return like.new_zeros(len(like), size)
        return F.one_hot(covariates[name], size).to(like.dtype)


class ResidualMLPDecoder(Decoder):
    """Counts from all hidden layers together, each with the embedding of the batch added: `"resmlp"`."""

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        width = config.decoder_hidden_size
        widths = [config.cell_embedding_size] + [width] * (config.num_decoder_layers - 1)
        self.layers = nn.ModuleList(Block(config, before, width) for before in widths[:-1])
        self.batches = nn.Embedding(max(config.num_batches, 1), width)
        self.norm = nn.LayerNorm(width)
        self.output = GeneRows(width * len(self.layers), config.vocab_size)
        self.activation = nn.PReLU()

    def forward(
        self, cell_embedding: Tensor, genes: Tensor, covariates: dict[str, Tensor | None]
    ) -> tuple[Tensor, None]:
        hidden_states, outputs = cell_embedding, []
        for layer in self.layers:
            hidden_states = layer(hidden_states)
            if covariates.get("batch") is not None:
                hidden_states = hidden_states + self.norm(self.batches(covariates["batch"]))
            outputs.append(hidden_states)
        return self.activation(self.output(torch.cat(outputs, dim=-1), genes)), None
