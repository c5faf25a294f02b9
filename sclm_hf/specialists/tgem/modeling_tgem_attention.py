"""Attention among genes that are numbers, without keeping its (genes, genes) weights.

The score of genes i and j is the product of two numbers, q_i k_j. The weights are made for some genes at a time and
thrown away, and made again for the gradients, which leaves nothing out: a softmax is over the keys of one gene.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_MOST_WEIGHTS = 2**20
"""Weights in memory at a time on a CPU, whose caches hold them."""

_MOST_ELSEWHERE = 2**26
"""The same on a GPU."""


def attend(queries: Tensor, keys: Tensor, values: Tensor, *, mask_self: bool) -> Tensor:
    """What genes take of one another.

    Args:
        queries, keys, values: (batch, heads, genes).
        mask_self: whether the weight of a gene for itself is set to 0 after the softmax.

    Returns:
        (batch, heads, genes).
    """
    kind = torch.promote_types(queries.dtype, torch.float32)
    queries, keys, values = queries.to(kind), keys.to(kind), values.to(kind)
    context, log_sum = _GeneAttention.apply(queries, keys, values)
    if mask_self:
        context = context - (queries * keys - log_sum).exp() * values
    return context


def attention_weights(queries: Tensor, keys: Tensor, *, mask_self: bool) -> Tensor:
    """The weights of [`attend`], (batch, heads, genes, genes)."""
    weights = (queries.unsqueeze(-1) * keys.unsqueeze(-2)).softmax(-1)
    if mask_self:
        weights = weights.masked_fill(torch.eye(weights.shape[-1], dtype=torch.bool, device=weights.device), 0.0)
    return weights


class _GeneAttention(torch.autograd.Function):
    """Means of values under the weights, and the logarithm of the sum that each softmax divides by."""

    @staticmethod
    def forward(ctx, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        columns = torch.stack([values, keys * values, keys, torch.ones_like(keys)], dim=-1)
        ends = [queries * end(dim=-1, keepdim=True) for end in (keys.amin, keys.amax)]
        largest = torch.maximum(*ends)
        sums = [_weights(queries, keys, largest, rows) @ columns for rows in _blocks(keys)]
        sums = torch.cat(sums, dim=-2)
        total = sums[..., 3]
        mean, mean_product, mean_key = (sums[..., column] / total for column in range(3))
        log_sum = largest + total.log()
        ctx.save_for_backward(queries, keys, values, log_sum, mean, mean_product, mean_key)
        return mean, log_sum

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, of_mean: Tensor, of_log_sum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values, log_sum, mean, mean_product, mean_key = ctx.saved_tensors
        columns = torch.stack([of_mean, of_mean * queries, (of_log_sum - of_mean * mean) * queries], dim=-1)
        sums = torch.zeros_like(columns)
        for rows in _blocks(keys):
            sums += _weights(queries, keys, log_sum, rows).transpose(-1, -2) @ columns[..., rows, :]
        of_values, of_products, of_scores = sums.unbind(-1)
        of_queries = of_mean * (mean_product - mean * mean_key) + of_log_sum * mean_key
        return of_queries, values * of_products + of_scores, of_values


def _weights(queries: Tensor, keys: Tensor, shift: Tensor, rows: slice) -> Tensor:
    """exp(q_i k_j - shift_i) of some genes i, (batch, heads, rows, genes)."""
    start = -shift[..., rows].unsqueeze(-1)
    return torch.addcmul(start, queries[..., rows].unsqueeze(-1), keys.unsqueeze(-2)).exp_()


def _blocks(keys: Tensor) -> Iterator[slice]:
    """Genes that are looked at together; `keys` are (batch, heads, genes)."""
    most = _MOST_WEIGHTS if keys.device.type == "cpu" else _MOST_ELSEWHERE
    size = max(1, most // keys.numel())
    for start in range(0, keys.shape[-1], size):
        yield slice(start, start + size)
