"""scGPT's value encoding: a gene's expression becomes its quantile bin within its cell.

Source: Cui et al., "scGPT", Nature Methods 21, 1470-1480 (2024), doi:10.1038/s41592-024-02201-0, Methods. Over the
expressed genes of a cell, `n_bins - 1` edges are the quantiles `linspace(0, 1, n_bins - 1)` (`numpy.quantile`'s linear
ones). With `left` edges <= value and `right` edges < value, the bin is `ceil(u * (right - left) + left)`, u uniform in
[0, 1): a value between edges has one bin, a value on which several edges coincide is spread over theirs. Bins run from
1 to `n_bins - 1`; 0 is left for genes that are not expressed.

Small whole numbers have few distinct values, so their edges and bins are worked out on a histogram; other values are
sorted.
"""

import numpy as np

from .cells import CellGenes, CellTokens, Layout, keep_genes, run, widest, write_cell, write_special_values
from .encoding import N_BINS, Encoding, Setting
from .kernels import kernel, part
from .keys import Stream, draw, substream, uniform
from .scratch import Scratch
from .sorting import sort_scratch, stable_sort
from .stored import StoredRows, open_tile, read_tile, written

_SMALL = 4096
_MOST_EDGES = 2**15
_U11, _U53 = np.uint64(11), np.uint64(53)


@part
def _between(a, b, t, single):
    """`numpy.quantile`'s interpolation, operation by operation; float32 data are subtracted as float32."""
    step = np.float64(np.float32(b) - np.float32(a)) if single else b - a
    return b - step * (1 - t) if t >= 0.5 else a + step * t


@part
def _count_small(values, n, whole, table, lanes):
    """Histogram of whole numbers below 4096; returns the largest, or -1 when there are others."""
    values, whole = values[:n], whole[:n]
    fits = True
    for i in range(n):
        fits &= values[i] < _SMALL
    if not fits:
        return -1
    top = np.int32(0)
    for i in range(n):
        number = np.int32(values[i])
        fits &= number == values[i]
        top = max(top, number)
        whole[i] = number
    if not fits:
        return -1
    # most counts of a cell are alike, and an increment would wait for the last one of the same entry
    even = n - n % 4
    for i in range(0, even, 4):
        lanes[whole[i], 0] += np.int32(1)
        lanes[whole[i + 1], 1] += np.int32(1)
        lanes[whole[i + 2], 2] += np.int32(1)
        lanes[whole[i + 3], 3] += np.int32(1)
    for i in range(even, n):
        lanes[whole[i], 0] += np.int32(1)
    for value in range(top + 1):
        lane = lanes[value]
        table[value] = lane[0] + lane[1] + lane[2] + lane[3]
        lane[0] = lane[1] = lane[2] = lane[3] = 0
    return np.int64(top)


@part
def _edges_of_counts(table, n, quantiles, single, edges):
    value, reached = 0, 0
    for q in range(quantiles.size):
        virtual = (n - 1) * quantiles[q]
        lower = np.int64(np.floor(virtual))
        while reached <= lower:
            value += 1
            reached += table[value]
        following = value
        if lower + 1 < n and reached <= lower + 1:
            following += 1
            while table[following] == 0:
                following += 1
        edges[q] = _between(np.float64(value), np.float64(following), virtual - lower, single)


@part
def _spread_counts(top, n, quantiles, single, table, edges, spreads):
    """The spread of each value up to `top`, given the histogram of `n` whole numbers."""
    _edges_of_counts(table, n, quantiles, single, edges)
    left = right = 0
    for value in range(top + 1):
        while left < edges.size and edges[left] <= value:
            left += 1
        while right < edges.size and edges[right] < value:
            right += 1
        span = left - right if left - right > 1 else 0
        spreads[value] = left << 16 | span


@part
def _spread_small(values, n, quantiles, single, scratch):
    """Spreads of small whole numbers, `n` of them: the last bin times 2**16, plus the number of bins if more than one.

    Returns False when there are other numbers, or too many bins. Looked up apart from what is made of them, because
    then the compiler does the latter for several at a time.
    """
    whole, table, lanes, spreads, of_values, edges = scratch[:6]
    top = _count_small(values, n, whole, table, lanes) if edges.size < _MOST_EDGES else -1
    if top < 0:
        return False
    _spread_counts(top, n, quantiles, single, table, edges, spreads)
    for i in range(n):
        of_values[i] = spreads[whole[i]]
    return True


@part
def _bin_of(spread, tie):
    return np.ceil(np.float64(spread >> np.int32(16)) - tie * np.float64(spread & np.int32(0xFFFF)))


@part
def _edges_of_sorted(ordered, n, quantiles, single, edges):
    for q in range(quantiles.size):
        virtual = (n - 1) * quantiles[q]
        lower = np.int64(np.floor(virtual))
        edges[q] = _between(ordered[lower], ordered[min(lower + 1, n - 1)], virtual - lower, single)


@part
def _bin_sorted(ordered, order, n, ties, edges, out):
    """Bins of sorted values, from edge to edge."""
    i = left = right = 0
    while i < n:
        value = ordered[i]
        while left < edges.size and edges[left] <= value:
            left += 1
        while right < edges.size and edges[right] < value:
            right += 1
        span = left - right
        if span > 1:
            while i < n and ordered[i] == value:
                out[order[i]] = np.ceil(left - ties[order[i]] * span)
                i += 1
        following = edges[left] if left < edges.size else np.inf
        while i < n and ordered[i] < following:
            out[order[i]] = left
            i += 1


@part
def _bin_others(values, n, ties, quantiles, single, scratch, out):
    edges, wide, ordered, order, sorting = scratch[5:]
    for i in range(n):
        wide[i] = values[i]
    stable_sort(wide.view(np.uint64), n, ordered, order, sorting)
    _edges_of_sorted(ordered.view(np.float64), n, quantiles, single, edges)
    _bin_sorted(ordered.view(np.float64), order, n, ties, edges, out)


@kernel
def bin_cell(values, n, ties, quantiles, single, scratch, out):
    """Bins of the `n` positive, finite `values` of one cell.

    Args:
        values: (>= n,) float32 or float64.
        n: how many, at least 1.
        ties: (>= n,) float64 uniforms in [0, 1), one a value.
        quantiles: `linspace(0, 1, n_bins - 1)`.
        single: whether the data are float32 (numpy then rounds the differences of neighbours to float32).
        scratch: from [`bin_scratch`].
        out: (>= n,) receives the bins.
    """
    if _spread_small(values, n, quantiles, single, scratch):
        spreads = scratch[4]
        for i in range(n):
            out[i] = _bin_of(spreads[i], ties[i])
    else:
        _bin_others(values, n, ties, quantiles, single, scratch, out)


def bin_scratch(size: int, n_edges: int) -> tuple:
    """What [`bin_cell`] works in, for cells of at most `size` genes."""
    return (
        np.empty(size, np.uint16),
        np.empty(_SMALL, np.int32),
        np.zeros((_SMALL, 4), np.int32),
        np.empty(_SMALL, np.int32),
        np.empty(size, np.int32),
        np.empty(n_edges, np.float64),
        np.empty(size, np.float64),
        np.empty(size, np.uint64),
        np.empty(size, np.int32),
        sort_scratch(size),
    )


@part
def _bin_drawn(spread, word):
    """[`_bin_of`] with the uniform number that `word` makes, in whole numbers."""
    span = np.uint64(spread & np.int32(0xFFFF))
    return np.int32(spread >> np.int32(16)) - np.int32(((word >> _U11) * span) >> _U53)


def bins_scratch(size: int, n_edges: int, n_columns: int) -> tuple:
    """What [`bin_cells`] works in, for cells of at most `size` genes, or tokens of `n_columns` with zeros."""
    # one more for `<cls>`
    spreads = np.empty(max(size, n_columns) + 1, np.int32)
    return np.empty(size, np.float64), np.empty(size, np.float32), spreads, bin_scratch(size, n_edges)


@kernel
def bin_cells(genes, keys, uniforms, quantiles, single, layout, scratch, out, start, stop):
    """Bin the cells `start:stop` and write them as tokens."""
    ties, bins, spreads, binning = scratch
    for i in range(start, stop):
        first, last = genes.indptr[i], genes.indptr[i + 1]
        ids, values, n = genes.ids[first:last], genes.values[first:last], last - first
        row = slice(out.starts[i], out.starts[i] + out.lengths[i])
        out_ids, out_values, stream_key = out.ids[row], out.values[row], substream(keys[i], Stream.TIES)
        if n and not uniforms.size and _spread_small(values, n, quantiles, single, binning):
            begin, kept = keep_genes(layout, genes, keys[i], ids, binning[4], n, out_ids, spreads)
            for j in range(begin, begin + kept):
                out_values[j] = _bin_drawn(spreads[j], draw(stream_key, out_ids[j]))
            write_special_values(layout, begin, kept, out_values)
            continue
        if n and uniforms.size:
            bin_cell(values, n, uniforms[first:last], quantiles, single, binning, bins)
        elif n:
            for j in range(n):
                ties[j] = uniform(stream_key, ids[j])
            _bin_others(values, n, ties, quantiles, single, binning, bins)
        write_cell(layout, genes, keys[i], ids, bins, n, out_ids, out_values)


def encode_bins(
    genes: CellGenes,
    keys: np.ndarray,
    layout: Layout,
    out: CellTokens,
    *,
    n_bins: int,
    uniforms: np.ndarray | None = None,
    num_threads: int = 1,
) -> None:
    """Bin the genes of cells and write them as tokens.

    Args:
        genes: the genes of sound cells (see [`take_genes`]).
        keys: (cells,) uint64 from `cell_keys`.
        layout: how a row looks.
        out: where each cell's tokens go, and how many it has.
        n_bins: number of bins, the one of genes that are not expressed included.
        uniforms: (genes,) float64 in [0, 1) to spread ties with, instead of the keyed ones.
        num_threads: how many threads share the cells; the result does not depend on it.
    """
    given = np.empty(0) if uniforms is None else np.ascontiguousarray(uniforms, dtype=np.float64)
    # numpy.quantile rounds the differences of float32 to float32
    quantiles, single = np.linspace(0, 1, n_bins - 1), genes.values.dtype == np.float32

    def piece(start: int, stop: int) -> None:
        scratch = bins_scratch(widest(genes, start, stop), quantiles.size, genes.columns.size)
        bin_cells(genes, keys, given, quantiles, single, layout, scratch, out, start, stop)

    run(piece, keys.size, num_threads)


@kernel
def _encode_stored(work, tile, keys, uniforms, quantiles, single, layout, scratch, out):
    first = 0
    while first < work.rows.size:
        end = read_tile(work, first, tile)
        if end < 0:
            return False
        cells = written(layout, tile, out, first, end)
        bin_cells(tile.genes, keys[first:end], uniforms, quantiles, single, layout, scratch, cells, 0, end - first)
        first = end
    return True


class Bins(Encoding):
    """Quantile bins within the cell."""

    name = "bins"
    parameters = {"n_bins": N_BINS}
    takes = ("uniforms",)
    reads_files = True

    def write(self, setting: Setting, genes, keys, out, *, uniforms=None, totals=None, num_threads=1) -> None:
        n_bins = setting.parameters.n_bins
        encode_bins(genes, keys, setting.layout, out, n_bins=n_bins, uniforms=uniforms, num_threads=num_threads)

    def write_stored(self, setting: Setting, stored: StoredRows, rows, columns, keys, out, scratch: Scratch) -> bool:
        counts = setting.parameters.expects == "counts"
        work, tile = open_tile(stored, rows, columns, counts=counts, scratch=scratch)
        quantiles = np.linspace(0, 1, setting.parameters.n_bins - 1)
        single = tile.genes.values.dtype == np.float32
        room = bins_scratch(tile.genes.ids.size, quantiles.size, tile.genes.columns.size)
        return _encode_stored(work, tile, keys, np.empty(0), quantiles, single, setting.layout, room, out)


BINS = Bins()
