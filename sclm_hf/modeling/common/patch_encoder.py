"""A transformer encoder over few tokens that are used as they come, without an embedding.

CIForm (Xu et al., Briefings in Bioinformatics 2023) and STGRNS (Xu et al., Bioinformatics 2023) are this encoder over
different tokens: post-norm layers, sinusoidal positions, the mean over the tokens.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention import eager_attention_forward
from .base import SclmPreTrainedModel
from .conversion import WeightMap
from .initialization import attention_projection, draw_linear


def sinusoidal_positions(n_positions: int, size: int, like: Tensor) -> Tensor:
    """(n_positions, size) sines in the even and cosines in the odd columns, made in float32 as published."""
    positions = torch.arange(n_positions, dtype=torch.float32, device=like.device).unsqueeze(1)
    frequencies = torch.exp(
        torch.arange(0, size, 2, dtype=torch.float32, device=like.device) * (-math.log(1e4) / size)
    )
    table = torch.zeros(n_positions, size, device=like.device)
    table[:, 0::2] = torch.sin(positions * frequencies)
    table[:, 1::2] = torch.cos(positions * frequencies[: size // 2])
    return table.to(like.dtype)


class PatchLayer(GradientCheckpointingLayer):
    """Attention of every token to all, and a feed-forward part, each added and then normalised.

    Its configuration has `hidden_size`, `num_attention_heads`, `intermediate_size`, `hidden_dropout_prob` and
    `layer_norm_eps`.
    """

    def __init__(self, config):
        super().__init__()
        size = config.hidden_size
        self.config = config
        self.head_dim = size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj, self.k_proj, self.v_proj = (attention_projection(size, fused=True) for _ in range(3))
        self.o_proj = attention_projection(size, fused=False)
        self.linear1 = nn.Linear(size, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, size)
        self.norm1 = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = self.norm1(hidden_states + self.dropout(self._attend(hidden_states)))
        inner = self.dropout(F.relu(self.linear1(hidden_states)))
        return self.norm2(hidden_states + self.dropout(self.linear2(inner)))

    def _attend(self, hidden_states: Tensor) -> Tensor:
        shape = hidden_states.shape[:-1]
        heads = [
            projection(hidden_states).view(*shape, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        ]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.hidden_dropout_prob if self.training else 0.0
        context, _ = attend(self, *heads, None, dropout=dropout, scaling=self.scaling)
        return self.o_proj(context.reshape(*shape, -1))


class PatchEncoder(nn.Module):
    """Tokens with their positions through the layers."""

    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList([PatchLayer(config) for _ in range(config.num_hidden_layers)])
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, hidden) in and out."""
        hidden_states = self.dropout(tokens + sinusoidal_positions(tokens.shape[1], tokens.shape[2], tokens))
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states


class PatchPreTrainedModel(SclmPreTrainedModel):
    """Base class of models with this encoder."""

    _no_split_modules = ["PatchLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            draw_linear(module)
        else:
            super()._init_weights(module)


def original_names() -> WeightMap:
    """The names that the originals gave to the tensors of their one layer -> those of a model with this encoder."""
    ours = "model.encoder.layers.0"
    names: WeightMap = {}
    for kind in ("weight", "bias"):
        names[f"encoder_layer.self_attn.in_proj_{kind}"] = tuple(f"{ours}.{part}_proj.{kind}" for part in "qkv")
        names[f"encoder_layer.self_attn.out_proj.{kind}"] = f"{ours}.o_proj.{kind}"
        for part in ("linear1", "linear2", "norm1", "norm2"):
            names[f"encoder_layer.{part}.{kind}"] = f"{ours}.{part}.{kind}"
    return names
