"""Cells made shallower, with values hidden: what the read-depth objective draws.

Everything is keyed by the cell and the gene, whatever the batch. A read is kept with the same probability for all
genes of a cell, so of `n` reads of a gene the number kept is binomial; it is the quantile of the gene's draw.
"""

from typing import NamedTuple

import numpy as np

from .kernels import kernel, part
from .keys import Stream, substream, uniform
from .masks import IGNORED, Draws

_SMALLEST_EXPONENT, _DEVIATIONS, _NEGLIGIBLE = -700.0, 12.0, 1e-20


class HidingSettings(NamedTuple):
    """How values are hidden; ratios are probabilities.

    Attributes:
        target_sum: what counts were scaled to before the logarithm.
        mask_value: what the decoder sees of a hidden value.
        value_ratio, zero_ratio: a gene is drawn, if it is expressed, and if not.
        hidden_ratio: a drawn value is hidden.
        changed_ratio: it is hidden or gets the value of another gene.
    """

    target_sum: float
    mask_value: float
    value_ratio: float
    zero_ratio: float
    hidden_ratio: float
    changed_ratio: float


class HiddenCells(NamedTuple):
    """What encoder and decoder see of cells, and what is asked for.

    Attributes:
        seen: (cells, genes) float32 values, 0 where hidden.
        told: (cells, genes) float32 values, the mask's where hidden.
        labels: (cells, genes) float32, values of the cells as they were where drawn, else `IGNORED`.
        totals: (cells,) float64, reads that are left.
    """

    seen: np.ndarray
    told: np.ndarray
    labels: np.ndarray
    totals: np.ndarray


@part
def _next_weight(weight, k, n, p):
    """Weight of `k` from that of `k - 1`."""
    return weight * ((n - k + 1) / k * p / (1 - p))


@kernel
def binomial_quantile(share, n, p):
    """The smallest k with P(X <= k) >= `share` in [0, 1), for X of Binomial(`n`, `p`), p below 1."""
    k, total, exponent = 0.0, 1.0, n * np.log1p(-p)
    weight = np.exp(exponent)
    if exponent < _SMALLEST_EXPONENT:
        # weights relative to one that is too small to count: those before it are smaller still
        k = max(0.0, np.floor(n * p - _DEVIATIONS * (np.sqrt(n * p * (1 - p)) + 1)))
        weight = total = term = 1.0
        later = k
        while later < n and (later < n * p or term > _NEGLIGIBLE * total):
            later += 1
            term = _next_weight(term, later, n, p)
            total += term
    reached = weight
    while reached < share * total and k < n:
        k += 1
        weight = _next_weight(weight, k, n, p)
        reached += weight
    return k


@part
def _thin(values, total, rate, stream_key, given, target_sum, kept):
    """Keep each read of a cell with probability `rate`; returns how many. One that would keep 1 or none stays."""
    left = 0.0
    if rate < 1:
        for gene in range(values.size):
            kept[gene] = 0.0
            reads = np.rint(np.expm1(values[gene]) * (total / target_sum)) if values[gene] else 0.0
            if reads > 0:
                share = given[gene] if given.size else uniform(stream_key, gene)
                kept[gene] = binomial_quantile(share, reads, rate)
                left += kept[gene]
    if left <= 1:
        for gene in range(values.size):
            kept[gene] = values[gene]
        return total
    for gene in range(values.size):
        if kept[gene]:
            kept[gene] = np.log1p(kept[gene] / left * target_sum)
    return left


@part
def _hide(values, kept, key, given, settings, seen, told, labels):
    choosing, hiding = substream(key, Stream.MASK), substream(key, Stream.DEPTH_HIDDEN)
    changing, expressed = substream(key, Stream.DEPTH_VALUE), kept[kept > 0]
    for gene in range(values.size):
        seen[gene], told[gene], labels[gene] = kept[gene], kept[gene], IGNORED
        ratio = settings.value_ratio if kept[gene] > 0 else settings.zero_ratio
        if (given[1, gene] if given.size else uniform(choosing, gene)) >= ratio:
            continue
        labels[gene] = values[gene]
        becomes = given[2, gene] if given.size else uniform(hiding, gene)
        if becomes < settings.hidden_ratio:
            seen[gene], told[gene] = 0.0, settings.mask_value
        elif becomes < settings.changed_ratio and expressed.size:
            number = (given[3, gene] if given.size else uniform(changing, gene)) * expressed.size
            seen[gene] = told[gene] = expressed[np.int64(number)]


@kernel
def _thin_and_hide(panel, totals, rates, draws, settings, out):
    kept = np.empty(panel.shape[1], np.float64)
    for i in range(panel.shape[0]):
        given = draws.given[:, i]
        reads = given[0] if given.size else np.empty(0)
        stream_key = substream(draws.keys[i], Stream.DEPTH_READS)
        out.totals[i] = _thin(panel[i], totals[i], rates[i], stream_key, reads, settings.target_sum, kept)
        _hide(panel[i], kept, draws.keys[i], given, settings, out.seen[i], out.told[i], out.labels[i])


def thin_and_hide(
    panel: np.ndarray, totals: np.ndarray, rates: np.ndarray, draws: Draws, settings: HidingSettings
) -> HiddenCells:
    """Make cells shallower, and hide values of what is left.

    Args:
        panel: (cells, genes) float64, log-normalised counts of all genes, 0 where not expressed.
        totals: (cells,) float64, reads of each cell.
        rates: (cells,) float64, probability that a read is kept; a cell at 1, or of which at most one read would be
            left, stays as it is.
        draws: of the streams `DEPTH_READS`, `MASK`, `DEPTH_HIDDEN` and `DEPTH_VALUE`.
        settings: how values are hidden. A value that is changed becomes that of the cell's expressed gene number
            `int(count × last draw)`.
    """
    out = HiddenCells(*(np.empty(panel.shape, np.float32) for _ in range(3)), np.empty(len(panel)))
    _thin_and_hide(panel, totals, rates, draws, settings, out)
    return out


@kernel
def _write_expressed(seen, ending, first_ending, pad_id, pad_value, ids, values, mask):
    for i in range(seen.shape[0]):
        n = 0
        for gene in range(seen.shape[1]):
            if seen[i, gene]:
                ids[i, n], values[i, n] = gene, seen[i, gene]
                n += 1
        for j in range(ending.shape[1]):
            ids[i, n], values[i, n] = first_ending + j, ending[i, j]
            n += 1
        ids[i, n:], values[i, n:] = pad_id, pad_value
        mask[i, :n], mask[i, n:] = 1, 0


def expressed_tokens(
    seen: np.ndarray, ending: np.ndarray, types: tuple[np.dtype, np.dtype], *, pad_id: int, pad_value: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of expressed genes, then some that end a cell, padded to the longest cell.

    Args:
        seen: (cells, genes) values; a gene's token id is its place.
        ending: (cells, n) values of the tokens that end a cell, whose ids follow those of the genes.
        types: of ids and mask.
        pad_id, pad_value: what padding is.

    Returns:
        (cells, tokens) ids, float32 values and mask.
    """
    width = int(np.count_nonzero(seen, axis=1).max(initial=0)) + ending.shape[1]
    shape = len(seen), width
    ids, values, mask = np.empty(shape, types[0]), np.empty(shape, np.float32), np.empty(shape, types[1])
    _write_expressed(seen, ending, seen.shape[1], pad_id, pad_value, ids, values, mask)
    return ids, values, mask
