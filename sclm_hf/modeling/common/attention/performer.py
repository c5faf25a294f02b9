"""FAVOR+ attention of the Performer (Choromanski et al., ICLR 2021, arXiv:2009.14794), evaluated in chunks of tokens.

Softmax attention is approximated by positive random features: `phi(q) · phi(k) ≈ exp(q · k / sqrt(head_dim))`, so that
keys and values are summed up once, in a `(features, head_dim)` table a head, and every query reads that table. Only
the features of one chunk exist at a time; `performer_attention_naive` is the same formula written out.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .recomputation import recomputed, run_directly

KeyMaximum = Literal["batch", "sequence", "head"]
"""Over what the keys' maximum is taken before the exponential: the whole tensor, each sequence, or each head of it.

The constant `eps` is added after the exponential, so the result depends on it: with `"batch"` on the other sequences.
At batch size 1 `"batch"` and `"sequence"` are the same.
"""

FEATURE_EPS = 1e-4
FEATURES_PER_CHUNK = 2**21
FEWEST_TOKENS = 64

_MAXIMUM_DIMS: dict[str, tuple[int, ...]] = {"batch": (0, 1, 2, 3), "sequence": (1, 2, 3), "head": (2, 3)}


def orthogonal_random_features(
    num_features: int, head_dim: int, *, scaling: Literal[0, 1] = 0, generator: torch.Generator | None = None
) -> Tensor:
    """Draw a projection `(num_features, head_dim)` float32 whose rows are orthogonal within blocks of `head_dim` rows.

    Args:
        num_features: number of random features.
        head_dim: width of a head.
        scaling: length of the rows: 0 that of Gaussian vectors, 1 always `sqrt(head_dim)`.
        generator: source of the numbers; torch's global one by default.
    """
    blocks = []
    for start in range(0, num_features, head_dim):
        orthogonal, _ = torch.linalg.qr(torch.randn(head_dim, head_dim, generator=generator, dtype=torch.float32))
        blocks.append(orthogonal.T[: num_features - start])
    if scaling == 1:
        return head_dim**0.5 * torch.cat(blocks)
    norms = torch.randn(num_features, head_dim, generator=generator, dtype=torch.float32).norm(dim=1)
    return norms[:, None] * torch.cat(blocks)


class PerformerFeatures(nn.Module):
    """The random projection of one attention layer: a buffer that is saved, because results depend on it."""

    projection: Tensor

    def __init__(self, num_features: int, head_dim: int):
        super().__init__()
        drawn = orthogonal_random_features(num_features, head_dim)
        self.register_buffer("projection", drawn.to(torch.get_default_dtype()))

    @torch.no_grad()
    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Replace the projection by a new one."""
        self.projection.copy_(orthogonal_random_features(*self.projection.shape, generator=generator))


class PerformerRedraw(nn.Module):
    """Counts training forwards and draws all projections of a model anew every `interval + 1` of them.

    Args:
        interval: training forwards between two draws; None never draws.
    """

    calls: Tensor

    def __init__(self, interval: int | None):
        super().__init__()
        self.interval = interval
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(self, model: nn.Module) -> None:
        """Count one forward of `model` if it trains; draw its `PerformerFeatures` anew when it is time."""
        if not model.training or self.interval is None:
            return
        if self.calls < self.interval:
            self.calls += 1
            return
        for module in model.modules():
            if isinstance(module, PerformerFeatures):
                module.redraw()
        self.calls.zero_()


class KeySummary(NamedTuple):
    """Keys and values of the tokens seen so far, summed up in single precision at least.

    Attributes:
        maximum: `(1 or batch, 1 or heads, 1, 1)` largest projected key so far.
        context: `(batch, heads, features, head_dim)` sum of `exp(…) vᵀ`, relative to `maximum`.
        normalizer: `(batch, heads, features, 1)` sum of `exp(…)`, relative to `maximum`.
        values: `(batch, heads, 1, head_dim)` sum of the values.
        count: `(batch, 1, 1, 1)` number of tokens.
    """

    maximum: Tensor
    context: Tensor
    normalizer: Tensor
    values: Tensor
    count: Tensor


def _project(x: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """Projected vectors `(…, features)` and half their squared lengths `(…, 1)`, both of `x / head_dim ** 0.25`."""
    scale = x.shape[-1] ** -0.25
    half_squares = x.to(torch.promote_types(x.dtype, torch.float32)).square().sum(dim=-1, keepdim=True) * (
        scale**2 / 2
    )
    return x @ (projection.to(x.dtype).T * scale), half_squares


def softmax_kernel(
    x: Tensor, projection: Tensor, *, is_query: bool, key_maximum: KeyMaximum = "batch", eps: float = FEATURE_EPS
) -> Tensor:
    """Positive random features of queries or keys, as published.

    Args:
        x: `(batch, heads, tokens, head_dim)`.
        projection: `(features, head_dim)`.
        is_query: queries subtract their own largest projection, keys that over `key_maximum`.
        key_maximum: see [`KeyMaximum`].
        eps: added to every feature.

    Returns:
        `(batch, heads, tokens, features)`.
    """
    projected, half_squares = _project(x, projection)
    dims = (-1,) if is_query else _MAXIMUM_DIMS[key_maximum]
    maximum = projected.amax(dim=dims, keepdim=True)
    return projection.shape[0] ** -0.5 * (torch.exp(projected - half_squares - maximum) + eps)


def performer_attention_weights(
    query: Tensor,
    key: Tensor,
    projection: Tensor,
    *,
    key_mask: Tensor | None = None,
    key_maximum: KeyMaximum = "batch",
    eps: float = FEATURE_EPS,
) -> Tensor:
    """The weights `(batch, heads, tokens, keys)` that [`performer_attention`] gives to keys without computing them."""
    query_features = softmax_kernel(query, projection, is_query=True, eps=eps)
    if key_mask is None:
        key_features = softmax_kernel(key, projection, is_query=False, key_maximum=key_maximum, eps=eps)
    else:
        projected, half_squares = _project(key, projection)
        real = key_mask[:, None, :, None].bool()
        maximum = projected.masked_fill(~real, -torch.inf).amax(dim=_MAXIMUM_DIMS[key_maximum], keepdim=True)
        key_features = torch.where(real, torch.exp(projected - half_squares - maximum) + eps, 0.0)
    weights = query_features @ key_features.transpose(-1, -2)
    return weights / weights.sum(dim=-1, keepdim=True)


def performer_attention_naive(
    query: Tensor, key: Tensor, value: Tensor, projection: Tensor, **settings: Any
) -> Tensor:
    """[`performer_attention`] as the formula says it; `settings` are those of [`performer_attention_weights`]."""
    return performer_attention_weights(query, key, projection, **settings) @ value


def empty_summary(batch: int, heads: int, projection: Tensor, key_maximum: KeyMaximum = "batch") -> KeySummary:
    """A summary of no tokens yet."""
    num_features, head_dim = projection.shape
    zeros = {"dtype": torch.promote_types(projection.dtype, torch.float32), "device": projection.device}
    reduced = _MAXIMUM_DIMS[key_maximum]
    shape = [1 if dim in reduced else size for dim, size in enumerate((batch, heads, 1, 1))]
    return KeySummary(
        maximum=torch.full(shape, -torch.inf, **zeros),
        context=torch.zeros(batch, heads, num_features, head_dim, **zeros),
        normalizer=torch.zeros(batch, heads, num_features, 1, **zeros),
        values=torch.zeros(batch, heads, 1, head_dim, **zeros),
        count=torch.zeros(batch, 1, 1, 1, **zeros),
    )


def add_keys(
    summary: KeySummary, key: Tensor, value: Tensor, projection: Tensor, key_mask: Tensor | None = None
) -> KeySummary:
    """The summary with more tokens, as if it had been made of all at once.

    The exponentials are taken relative to the largest projected key so far; earlier sums are rescaled when a larger
    one comes, so one pass is enough and nothing overflows.

    Args:
        summary: the tokens so far.
        key: `(batch, heads, tokens, head_dim)`.
        value: `(batch, heads, tokens, head_dim)`.
        projection: `(features, head_dim)`.
        key_mask: `(batch, tokens)`, 0 = leave the token out.
    """
    projected, half_squares = _project(key, projection)
    if key_mask is not None:
        real = key_mask[:, None, :, None].bool()
        projected = projected.masked_fill(~real, -torch.inf)
        value = value.masked_fill(~real, 0.0)
    dims = [dim for dim, size in enumerate(summary.maximum.shape) if size == 1]
    largest = projected.amax(dim=dims, keepdim=True).to(summary.maximum.dtype)
    maximum = torch.maximum(summary.maximum, largest)
    # a sequence may begin with nothing but padding
    shift = maximum.masked_fill(maximum == -torch.inf, 0.0)
    rescale = torch.exp(summary.maximum - shift)
    features = _exp_of_difference(projected, half_squares + shift)
    tokens = key.shape[2] if key_mask is None else real.sum(dim=2, keepdim=True)
    return KeySummary(
        maximum=maximum,
        context=summary.context * rescale + features.transpose(-1, -2) @ value,
        normalizer=summary.normalizer * rescale + features.sum(dim=2).unsqueeze(-1),
        values=summary.values + value.sum(dim=2, keepdim=True, dtype=maximum.dtype),
        count=summary.count + tokens,
    )


def attention_table(summary: KeySummary, eps: float = FEATURE_EPS) -> Tensor:
    """What a feature of a query reads: `(batch, heads, features, head_dim + 1)`, means over the tokens.

    The last column is the normalizer, so that one product gives numerator and denominator of attention.
    """
    table = torch.cat([summary.context + eps * summary.values, summary.normalizer + eps * summary.count], dim=-1)
    return table / summary.count


def read_table(query: Tensor, table: Tensor, projection: Tensor, eps: float = FEATURE_EPS) -> Tensor:
    """What queries `(batch, heads, tokens, head_dim)` attend to, of the same shape."""
    projected, half_squares = _project(query, projection)
    maximum = projected.amax(dim=-1, keepdim=True)
    features = _exp_of_difference(projected, half_squares + maximum)
    # eps is added to the product, which is smaller than the features
    read = features @ table.to(features.dtype) + eps * table.sum(dim=2, keepdim=True).to(features.dtype)
    return read[..., :-1] / read[..., -1:]


def _exp_of_difference(projected: Tensor, shift: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        return torch.exp(projected - shift).to(projected.dtype)
    # a difference of two types would be taken in a copy of the larger one
    rounded = shift.to(projected.dtype)
    projected.sub_(rounded)
    if rounded.dtype != shift.dtype:
        projected.sub_((shift - rounded).to(projected.dtype))
    return projected.exp_()


def default_chunk_size(batch: int, heads: int, num_features: int) -> int:
    """Tokens whose features are few enough to stay near the processor."""
    return max(FEWEST_TOKENS, FEATURES_PER_CHUNK // (batch * heads * num_features))


def performer_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    projection: Tensor,
    *,
    key_mask: Tensor | None = None,
    key_maximum: KeyMaximum = "batch",
    chunk_size: int | None = None,
    eps: float = FEATURE_EPS,
) -> Tensor:
    """Non-causal FAVOR+ attention with the softmax kernel, in memory that does not grow with features × tokens.

    That holds in training too: what a chunk would keep for its gradients is computed again when they are asked for.

    Args:
        query: `(batch, heads, tokens, head_dim)`.
        key: `(batch, heads, keys, head_dim)`.
        value: `(batch, heads, keys, head_dim)`.
        projection: `(features, head_dim)`, see [`orthogonal_random_features`].
        key_mask: `(batch, keys)`, 0 = a key that does not exist. (The published code only sets its value to zero.)
        key_maximum: see [`KeyMaximum`].
        chunk_size: tokens whose features exist at a time; changes rounding only. By default as many as fit in caches.
        eps: added to every feature.

    Returns:
        `(batch, heads, tokens, head_dim)`.
    """
    batch, heads, tokens, _ = query.shape
    chunk_size = chunk_size or default_chunk_size(batch, heads, projection.shape[0])
    call = recomputed if max(tokens, key.shape[2]) > chunk_size else run_directly
    key_parts, value_parts = key.split(chunk_size, dim=2), value.split(chunk_size, dim=2)
    masks = [None] * len(key_parts) if key_mask is None else key_mask.split(chunk_size, dim=1)
    summary = empty_summary(batch, heads, projection, key_maximum)
    for keys, values, mask in zip(key_parts, value_parts, masks, strict=True):
        summary = call(add_keys, summary, keys, values, projection, mask)
    table = attention_table(summary, eps)
    outputs = [call(read_table, part, table, projection, eps) for part in query.split(chunk_size, dim=2)]
    return torch.cat(outputs, dim=2)


@torch.no_grad()
def mean_attention(
    query: Tensor,
    key: Tensor,
    projection: Tensor,
    *,
    mask: Tensor | None = None,
    key_maximum: KeyMaximum = "batch",
    eps: float = FEATURE_EPS,
) -> Tensor:
    """The share `(batch, heads, tokens)` of attention that each token gets, averaged over the tokens that give it.

    Weights of pairs never exist: features of queries are averaged first.

    Args:
        query, key: `(batch, heads, tokens, head_dim)`.
        projection: `(features, head_dim)`.
        mask: `(batch, tokens)`, 0 = a token that does not exist.
        key_maximum: see [`KeyMaximum`].
        eps: added to every feature.
    """
    batch, heads, tokens, _ = query.shape
    chunk_size = default_chunk_size(batch, heads, projection.shape[0])
    mask = torch.ones(batch, tokens, device=query.device) if mask is None else mask
    chunks = [slice(start, start + chunk_size) for start in range(0, tokens, chunk_size)]
    summary = empty_summary(batch, heads, projection, key_maximum)
    for part in chunks:
        summary = add_keys(summary, key[:, :, part], key[:, :, part], projection, mask[:, part])
    normalizer = summary.normalizer / summary.count + eps
    given = torch.zeros_like(summary.normalizer)
    for part in chunks:
        features = softmax_kernel(query[:, :, part], projection, is_query=True, eps=eps).to(given.dtype)
        shares = features / (features @ normalizer) * mask[:, None, part, None]
        given += shares.sum(dim=2).unsqueeze(-1)
    received = []
    for part in chunks:
        projected, half_squares = _project(key[:, :, part], projection)
        features = _exp_of_difference(projected, half_squares + summary.maximum).add_(eps)
        received.append((features.to(given.dtype) @ given).squeeze(-1) * mask[:, None, part])
    return torch.cat(received, dim=2) / summary.count.squeeze(-1) ** 2
