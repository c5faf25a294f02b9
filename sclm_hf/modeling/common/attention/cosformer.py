"""Attention of the cosFormer (Qin et al., ICLR 2022, arXiv:2202.08791), evaluated in chunks of tokens.

Linear attention whose weights fall with the distance of two tokens: `q · k cos(π/2 (i - j) / n)`. The cosine of a
difference is a sum of two products, so keys and values are summed up once, in a `(2 head_dim, head_dim)` table a head.
Queries and keys come with their activation applied (ReLU in the paper, GELU in CellPLM).
"""

import math

import torch
from torch import Tensor

from .recomputation import recomputed, run_directly

COSFORMER_EPS = 1e-6
CHUNK_SIZE = 1024


def cosformer_attention_naive(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, eps: float = COSFORMER_EPS
) -> Tensor:
    """[`cosformer_attention`] as the formula says it, with the weight of every pair."""
    angles = _angles(query, mask)
    weights = query @ key.transpose(-1, -2) * torch.cos(angles[:, None, :, None] - angles[:, None, None, :])
    if mask is not None:
        weights = weights * mask[:, None, None, :]
    return weights @ value / weights.sum(-1, keepdim=True).clamp(min=eps)


def cosformer_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    chunk_size: int | None = None,
    eps: float = COSFORMER_EPS,
) -> Tensor:
    """Non-causal cosFormer attention of tokens to one another; one pass makes the table, another reads it.

    Memory does not grow with the number of chunks, in training neither: what a chunk would keep for its gradients is
    computed again when they are asked for.

    Args:
        query, key, value: `(batch, heads, tokens, head_dim)`. The order of the tokens matters.
        mask: `(batch, tokens)`, 0 = a token that does not exist; those must follow the real ones.
        chunk_size: tokens at a time; changes rounding only.
        eps: the smallest denominator.

    Returns:
        `(batch, heads, tokens, head_dim)`.
    """
    chunk_size = chunk_size or CHUNK_SIZE
    call = recomputed if query.shape[2] > chunk_size else run_directly
    angles = _angles(query, mask).split(chunk_size, dim=1)
    masks = [None] * len(angles) if mask is None else mask[:, None, :, None].split(chunk_size, dim=2)
    context, normalizer = 0.0, 0.0
    for *part, real in zip(*(x.split(chunk_size, dim=2) for x in (key, value)), angles, masks, strict=True):
        added = call(_table, *part, real)
        context, normalizer = context + added[0], normalizer + added[1]
    queries = zip(query.split(chunk_size, dim=2), angles, strict=True)
    return torch.cat([call(_read, *part, context, normalizer, eps) for part in queries], dim=2)


def _table(key: Tensor, value: Tensor, angles: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """What keys add to the table that queries read, and to the sum of their weights."""
    keys = _reweighted(key, angles)
    keys = keys if real is None else keys * real
    return keys.transpose(-1, -2) @ value, keys.sum(2).unsqueeze(-1)


def _read(query: Tensor, angles: Tensor, context: Tensor, normalizer: Tensor, eps: float) -> Tensor:
    queries = _reweighted(query, angles)
    return queries @ context / (queries @ normalizer).clamp(min=eps)


def _angles(query: Tensor, mask: Tensor | None) -> Tensor:
    """`(batch or 1, tokens)`: positions from 1 to n as parts of a right angle."""
    tokens = query.shape[2]
    positions = torch.arange(1, tokens + 1, device=query.device, dtype=torch.float32)
    count = tokens if mask is None else mask.sum(1, keepdim=True)
    return (math.pi / 2 * positions[None] / count).to(query.dtype)


def _reweighted(tokens: Tensor, angles: Tensor) -> Tensor:
    """`(batch, heads, tokens, 2 head_dim)`."""
    angles = angles[:, None, :, None]
    return torch.cat([tokens * angles.sin(), tokens * angles.cos()], dim=-1)
