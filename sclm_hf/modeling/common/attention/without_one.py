"""Attention in cells that lack one token each, from the weights of the whole cells."""

from typing import NamedTuple

import torch
from torch import Tensor


class WholeCells(NamedTuple):
    """What the attention of whole cells tells of that of cells without a token.

    Attributes:
        weights: `(cells, keys, queries, heads)` weights.
        values: `(cells, tokens, heads, head_dim)` values.
        context: `(cells, queries, heads, head_dim)` weighted sums of the values.
        largest: `(cells, queries, heads)` the key with the largest weight of each query.
        context_of_others: as `context`, without this key.
    """

    weights: Tensor
    values: Tensor
    context: Tensor
    largest: Tensor
    context_of_others: Tensor


def attend_whole_cells(
    query: Tensor, key: Tensor, values: Tensor, attention_mask: Tensor | None, scaling: float
) -> WholeCells:
    """Attention over the tokens of cells, kept for [`attend_without_one`].

    Args:
        query, key, values: `(cells, tokens, heads, head_dim)`.
        attention_mask: `(cells, tokens)`, 1 at real positions.
        scaling: factor of the scores.
    """
    scores = torch.einsum("cqhd,ckhd->chqk", query, key) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask[:, None, None].bool(), -torch.inf)
    weights = scores.softmax(dim=-1)
    largest = weights.argmax(dim=-1, keepdim=True)
    weights_of_others = scores.scatter(-1, largest, -torch.inf).softmax(dim=-1)
    return WholeCells(
        weights=weights.permute(0, 3, 2, 1).contiguous(),
        values=values,
        context=_weighted(weights, values),
        largest=largest[..., 0].transpose(1, 2).contiguous(),
        context_of_others=_weighted(weights_of_others, values),
    )


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    return torch.einsum("chqk,ckhd->cqhd", weights, values).contiguous()


def attend_without_one(whole: WholeCells, cells: Tensor, places: Tensor) -> Tensor:
    """Attention in cells that lack one token each.

    Of a weighted sum `c` of values `v` with weights `w` that add up to 1, what is left without token `j` is
    `(c - w_j v_j) / (1 - w_j)`. That is as exact as `c` where `w_j` is at most a half, as all weights of a query are
    but the largest; without that one, the sum was computed anew, once for all.

    Args:
        whole: the whole cells.
        cells: `(n,)` number of the cell.
        places: `(n,)` position of the token that it lacks, -1 = none.

    Returns:
        `(n, queries, heads, head_dim)`, also for the token that is not there.
    """
    rows = slice_of_one(cells)
    lost = (whole.weights[cells, places] * (places >= 0)[:, None, None]).unsqueeze(-1)
    left = (whole.context[rows] - lost * whole.values[cells, places].unsqueeze(1)) / (1 - lost)
    number, query, head = (whole.largest[rows] == places[:, None, None]).nonzero(as_tuple=True)
    left[number, query, head] = whole.context_of_others[cells[number], query, head]
    return left


def slice_of_one(rows: Tensor) -> Tensor | slice:
    """What picks `rows`; where they are one again and again, it once, which broadcasting repeats without a copy."""
    first = int(rows[0])
    return slice(first, first + 1) if bool((rows == first).all()) else rows
