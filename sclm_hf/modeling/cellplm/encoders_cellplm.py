"""Layers over the cells of a sample: CellPLM's encoders (Wen et al., ICLR 2024).

Hidden states are (1, cells, hidden). What is wider is computed some cells at a time where no gradient is asked for.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from sclm_hf.modeling.common.attention.cosformer import cosformer_attention
from sclm_hf.modeling.common.attention.flow import flow_attention
from sclm_hf.modeling.common.performer import PerformerAttention

from .configuration_cellplm import CellPLMConfig
from .decoders_cellplm import Block

_PERFORMER_NORM_EPS, _SPECTRAL_EPS = 1e-6, 1e-12


def in_chunks(function, hidden_states: Tensor, chunk_size: int | None) -> Tensor:
    """What `function` makes of (1, cells, …), `chunk_size` cells at a time where no gradient is asked for."""
    if chunk_size is None or torch.is_grad_enabled() or hidden_states.shape[1] <= chunk_size:
        return function(hidden_states)
    return torch.cat([function(chunk) for chunk in hidden_states.split(chunk_size, dim=1)], dim=1)


class CellAttention(nn.Module):
    """Attention of cells to one another: flow, cosformer or softmax."""

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        self.config = config
        self.heads, size = config.num_attention_heads, config.hidden_size
        self.q_proj, self.k_proj = nn.Linear(size, size), nn.Linear(size, size)
        self.v_proj, self.o_proj = nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (
            project(hidden_states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        how = {"mask": mask, "chunk_size": self.config.chunk_size}
        if self.config.encoder_type == "flowformer":
            context = flow_attention(query, key, value, **how)
        elif self.config.encoder_type == "cosformer":
            context = cosformer_attention(F.gelu(query), F.gelu(key), value, **how)
        else:
            mask = None if mask is None else mask.bool()[:, None, None]
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.o_proj(context.transpose(1, 2).flatten(2))


class CellLayer(GradientCheckpointingLayer):
    """Attention and a feed-forward part, each behind a normalisation."""

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        self.config, size = config, config.hidden_size
        norm = {
            "performer": lambda: nn.RMSNorm(size, eps=_PERFORMER_NORM_EPS),
            "transformer": lambda: nn.RMSNorm(size, eps=config.layer_norm_eps),
        }.get(config.encoder_type, lambda: nn.LayerNorm(size, eps=config.layer_norm_eps))
        linear = SpectralLinear if config.encoder_type == "transformer" else nn.Linear
        self.norm1, self.norm2 = norm(), norm()
        if config.encoder_type == "performer":
            how = config.num_attention_heads, config.head_dim, config.num_random_features
            self.self_attn = PerformerAttention(size, *how, bias=False)
        else:
            self.self_attn = CellAttention(config)
        self.linear1, self.linear2 = linear(size, 2 * size), linear(2 * size, size)
        self.attention_dropout = nn.Dropout(
            config.attention_dropout_prob if config.encoder_type == "flowformer" else 0.0
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        normed = self.norm1(hidden_states)
        if self.config.encoder_type == "performer":
            attended, _ = self.self_attn(normed, mask, "batch")
        else:
            attended = self.dropout(self.attention_dropout(self.self_attn(normed, mask)))
        hidden_states = hidden_states + attended
        # each call of a spectrally normalised map moves its estimate
        chunk_size = None if self.config.encoder_type == "transformer" else self.config.chunk_size
        return hidden_states + in_chunks(self._feed_forward, hidden_states, chunk_size)

    def _feed_forward(self, hidden_states: Tensor) -> Tensor:
        inner = self.dropout(F.gelu(self.linear1(self.norm2(hidden_states))))
        return self.dropout(self.linear2(inner))


class MLPLayer(GradientCheckpointingLayer):
    """A hidden layer added to its input; each cell alone."""

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        self.config = config
        self.block = Block(config, config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        flat = self.block(hidden_states[0]).unsqueeze(0)
        return hidden_states + flat


class SpectralLinear(nn.Linear):
    """A linear map whose largest singular value is a parameter.

    The value that it has is estimated by one step of the power iteration a forward, in evaluation too: as in the
    original, the first calls differ a little from one another.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features)
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


def make_layers(config: CellPLMConfig) -> nn.ModuleList:
    """The layers of the encoder that a configuration names."""
    count = 0 if config.encoder_type == "none" else config.num_hidden_layers
    return nn.ModuleList((MLPLayer if config.encoder_type == "mlp" else CellLayer)(config) for _ in range(count))
