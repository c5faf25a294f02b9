"""Performer layers (Choromanski et al., ICLR 2021): what scBERT is made of, and the decoder of scFoundation."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention.performer import (
    KeyMaximum,
    KeySummary,
    PerformerFeatures,
    add_keys,
    attention_table,
    default_chunk_size,
    empty_summary,
    performer_attention_weights,
    read_table,
)
from .attention.recomputation import recomputed, run_directly

FEED_FORWARD_TOKENS = 1024


class PerformerAttention(nn.Module):
    """Multi-head FAVOR+ attention that projects, summarizes and reads one chunk of tokens at a time.

    Args:
        hidden_size: width of the tokens.
        num_heads: number of heads.
        head_dim: width of a head; heads together may be wider than the tokens.
        num_features: number of random features.
        bias: whether queries, keys and values have one. The output projection always has.
    """

    def __init__(self, hidden_size: int, num_heads: int, head_dim: int, num_features: int, bias: bool):
        super().__init__()
        self.head_dim = head_dim
        self.q_proj = nn.Linear(hidden_size, num_heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(hidden_size, num_heads * head_dim, bias=bias)
        self.v_proj = nn.Linear(hidden_size, num_heads * head_dim, bias=bias)
        self.o_proj = nn.Linear(num_heads * head_dim, hidden_size)
        self.features = PerformerFeatures(num_features, head_dim)

    def heads(self, projected: Tensor) -> Tensor:
        """`(batch, tokens, heads · head_dim)` as `(batch, heads, tokens, head_dim)`."""
        # not by the number of heads, which are divided where a plan spreads them over processes
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def forward(
        self,
        hidden_states: Tensor,
        key_mask: Tensor | None = None,
        key_maximum: KeyMaximum = "batch",
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """What `(batch, tokens, hidden)` attend to, of the same shape; and weights if asked for.

        Weights are `(batch, heads, tokens, tokens)`, so they are for short sequences only.
        """
        batch, tokens, _ = hidden_states.shape
        # those of this process
        n_heads = self.k_proj(hidden_states[:, :1]).shape[-1] // self.head_dim
        chunk_size = default_chunk_size(batch, n_heads, self.features.projection.shape[0])
        call = recomputed if tokens > chunk_size else run_directly
        chunks = hidden_states.split(chunk_size, dim=1)
        masks = [None] * len(chunks) if key_mask is None else key_mask.split(chunk_size, dim=1)
        summary = empty_summary(batch, n_heads, self.features.projection, key_maximum)
        for chunk, mask in zip(chunks, masks, strict=True):
            summary = call(self.add, summary, chunk, mask)
        table = attention_table(summary)
        attended = torch.cat([call(self.read, chunk, table) for chunk in chunks], dim=1)
        weights = self.weights(hidden_states, key_mask, key_maximum) if output_attentions else None
        return attended, weights

    def add(self, summary: KeySummary, chunk: Tensor, mask: Tensor | None) -> KeySummary:
        key, value = self.heads(self.k_proj(chunk)), self.heads(self.v_proj(chunk))
        return add_keys(summary, key, value, self.features.projection, mask)

    def read(self, chunk: Tensor, table: Tensor) -> Tensor:
        attended = read_table(self.heads(self.q_proj(chunk)), table, self.features.projection)
        return self.o_proj(attended.transpose(1, 2).flatten(2))

    def weights(self, hidden_states: Tensor, key_mask: Tensor | None, key_maximum: KeyMaximum) -> Tensor:
        query, key = self.heads(self.q_proj(hidden_states)), self.heads(self.k_proj(hidden_states))
        settings = {"key_mask": key_mask, "key_maximum": key_maximum}
        return performer_attention_weights(query, key, self.features.projection, **settings)


class PerformerLayer(GradientCheckpointingLayer):
    """Pre-norm attention and GELU feed-forward part, each added to its input.

    Args:
        hidden_size, num_heads, head_dim, num_features, bias: those of [`PerformerAttention`].
        intermediate_size: inner width of the feed-forward part.
        dropout: after attention and inside the feed-forward part.
        norm_eps: epsilon of the LayerNorms.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        num_features: int,
        intermediate_size: int,
        *,
        bias: bool,
        dropout: float,
        norm_eps: float,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=norm_eps)
        self.self_attn = PerformerAttention(hidden_size, num_heads, head_dim, num_features, bias)
        self.norm2 = nn.LayerNorm(hidden_size, eps=norm_eps)
        self.linear1 = nn.Linear(hidden_size, intermediate_size)
        self.linear2 = nn.Linear(intermediate_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden_states: Tensor,
        key_mask: Tensor | None = None,
        key_maximum: KeyMaximum = "batch",
        output_attentions: bool = False,
    ) -> Tensor:
        return self.feed_forward(self.attend(hidden_states, key_mask, key_maximum, output_attentions))

    def attend(
        self,
        hidden_states: Tensor,
        key_mask: Tensor | None = None,
        key_maximum: KeyMaximum = "batch",
        output_attentions: bool = False,
    ) -> Tensor:
        """The first half of the layer."""
        attended, _ = self.self_attn(self.norm1(hidden_states), key_mask, key_maximum, output_attentions)
        return hidden_states + self.dropout(attended)

    def feed_forward(self, hidden_states: Tensor) -> Tensor:
        """The second half of the layer."""
        chunks = hidden_states.split(FEED_FORWARD_TOKENS, dim=1)
        call = recomputed if len(chunks) > 1 else run_directly
        return torch.cat([call(self._feed_forward, chunk) for chunk in chunks], dim=1)

    def _feed_forward(self, chunk: Tensor) -> Tensor:
        return chunk + self.linear2(self.dropout(F.gelu(self.linear1(self.norm2(chunk)))))
