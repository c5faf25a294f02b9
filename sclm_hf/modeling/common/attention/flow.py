"""Flow attention of the Flowformer (Wu et al., ICML 2022, arXiv:2202.06258), evaluated in chunks of tokens.

Attention as a flow network: what each query receives and each key gives away is conserved, which makes keys compete
and queries gate without a softmax over pairs. Everything a query reads is one `(head_dim, head_dim)` table a head.
Queries and keys are taken as they leave their projections; the sigmoid is part of the attention.
"""

import torch
from torch import Tensor

from .recomputation import recomputed, run_directly

FLOW_EPS = 1e-6
CHUNK_SIZE = 1024
_CONSERVED = 1.0


def flow_attention_naive(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, eps: float = FLOW_EPS
) -> Tensor:
    """[`flow_attention`] as the formula says it, for all tokens at once."""
    query, key = query.sigmoid(), key.sigmoid()
    real = torch.ones_like(query[..., 0]) if mask is None else mask[:, None].expand(query.shape[:3]).to(query.dtype)
    real, count = real.unsqueeze(-1), real.sum(-1)[..., None, None]

    def flow(tokens: Tensor, total: Tensor) -> Tensor:
        return ((tokens + eps) * (total + eps)).sum(-1, keepdim=True)

    incoming = 1 / flow(query, (key * real).sum(2, keepdim=True))
    outgoing = 1 / flow(key, (query * real).sum(2, keepdim=True))
    conserved_incoming = flow(query, (key * outgoing * real).sum(2, keepdim=True))
    conserved_outgoing = flow(key, (query * incoming * real).sum(2, keepdim=True)).clamp(-_CONSERVED, _CONSERVED)
    competition = count * conserved_outgoing.masked_fill(real == 0, -torch.inf).softmax(dim=2)
    context = key.transpose(-1, -2) @ (value * competition)
    return conserved_incoming.sigmoid() * ((query * incoming) @ context)


def flow_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    chunk_size: int | None = None,
    eps: float = FLOW_EPS,
) -> Tensor:
    """Non-causal flow attention of tokens to one another; what is computed on the way exists for one chunk at a time.

    That holds in training too: what a chunk would keep for its gradients is computed again when they are asked for.
    Two passes collect the totals that conservation needs, a third the table, a fourth reads it.

    Args:
        query, key, value: `(batch, heads, tokens, head_dim)`.
        mask: `(batch, tokens)`, 0 = a token that does not exist.
        chunk_size: tokens at a time; changes rounding only.
        eps: added to every element of queries, keys and their sums.

    Returns:
        `(batch, heads, tokens, head_dim)`.
    """
    chunk_size = chunk_size or CHUNK_SIZE
    call = recomputed if query.shape[2] > chunk_size else run_directly
    count = query.shape[2] if mask is None else mask.sum(1)[:, None, None, None].to(query.dtype)
    masks = [None] * -(-query.shape[2] // chunk_size) if mask is None else mask.split(chunk_size, dim=1)
    parts = list(zip(*(x.split(chunk_size, dim=2) for x in (query, key, value)), masks, strict=True))
    total_query = sum(call(_total, q, real) for q, _, _, real in parts)
    total_key = sum(call(_total, k, real) for _, k, _, real in parts)
    conserved_query = sum(call(_conserved_total, q, total_key, real, eps) for q, _, _, real in parts)
    conserved_key = sum(call(_conserved_total, k, total_query, real, eps) for _, k, _, real in parts)
    context, normalizer = 0.0, 0.0
    for _, k, v, real in parts:
        added = call(_table, k, v, conserved_query, real, eps)
        context, normalizer = context + added[0], normalizer + added[1]
    context = context * (count / normalizer)
    return torch.cat([call(_read, q, context, total_key, conserved_key, eps) for q, _, _, _ in parts], dim=2)


def _total(tokens: Tensor, real: Tensor | None) -> Tensor:
    tokens = tokens.sigmoid()
    tokens = tokens if real is None else tokens * real[:, None, :, None]
    return tokens.sum(2, keepdim=True)


def _conserved_total(tokens: Tensor, total: Tensor, real: Tensor | None, eps: float) -> Tensor:
    tokens = _shared_out(tokens.sigmoid(), total, eps)
    tokens = tokens if real is None else tokens * real[:, None, :, None]
    return tokens.sum(2, keepdim=True)


def _table(
    key: Tensor, value: Tensor, conserved_query: Tensor, real: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """What keys add to the table that queries read, and to the sum of their weights."""
    key = key.sigmoid()
    # clamped, so the exponential needs no maximum
    weights = _flow(key, conserved_query, eps).clamp(-_CONSERVED, _CONSERVED).exp()
    weights = weights if real is None else weights.masked_fill(~real.bool()[:, None, :, None], 0.0)
    return key.transpose(-1, -2) @ (value * weights).to(key.dtype), weights.sum(2, keepdim=True)


def _read(query: Tensor, context: Tensor, total_key: Tensor, conserved_key: Tensor, eps: float) -> Tensor:
    query = query.sigmoid()
    gate = _flow(query, conserved_key, eps).sigmoid()
    return (gate * (_shared_out(query, total_key, eps) @ context)).to(query.dtype)


def _flow(tokens: Tensor, total: Tensor, eps: float) -> Tensor:
    return ((tokens + eps) * (total + eps)).sum(-1, keepdim=True)


def _shared_out(tokens: Tensor, total: Tensor, eps: float) -> Tensor:
    """Tokens divided by their capacity."""
    return tokens / _flow(tokens, total, eps)
