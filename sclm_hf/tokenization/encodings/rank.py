"""Rank-value encoding: a cell is the list of its genes, from the most to the least expressed for that gene.

Source: Theodoris et al., "Transfer learning enables predictions in network biology", Nature 618, 616-624 (2023),
doi:10.1038/s41586-023-06139-9, Methods. A gene's value is its count over the cell's total, times a target sum, times a
factor of the gene (there: one over its non-zero median across the corpus). Equal values keep the order of their
columns.
"""

import numpy as np
from numba import njit

from .cells import Cells, Layout, gather, run, widest, write_ids
from .sorting import MAX_BUCKETS, stable_sort


@njit(cache=True, nogil=True)
def _row_total(cells, i):
    data = cells.data[cells.indptr[cells.rows[i]] : cells.indptr[cells.rows[i] + 1]]
    # Four sums side by side: one alone waits for each of its additions.
    sums = (0.0, 0.0, 0.0, 0.0)
    whole = data.size - data.size % 4
    for j in range(0, whole, 4):
        sums = (sums[0] + data[j], sums[1] + data[j + 1], sums[2] + data[j + 2], sums[3] + data[j + 3])
    total = sums[0] + sums[1] + sums[2] + sums[3]
    for j in range(whole, data.size):
        total += data[j]
    return total


@njit(cache=True, nogil=True)
def rank_cell(ids, values, n, total, target_sum, factors, scratch):
    """Rank the `n` genes of one cell.

    Args:
        ids: (>= n,) token ids.
        values: (>= n,) float64, positive and finite.
        n: how many, at least 1.
        total: total count of the cell.
        target_sum, factors: as for [`encode_rank`].
        scratch: from [`rank_scratch`].

    Returns:
        (>= n,) int32, where the genes stand in `ids`, from the highest rank down.
    """
    scaled, ordered, order, places, starts = scratch
    keys, share = scaled.view(np.uint64), 1 / total
    for j in range(n):
        scaled[j] = values[j] * share * target_sum * factors[np.uint32(ids[j])]
    for j in range(n):
        keys[j] = ~keys[j]
    stable_sort(keys, n, ordered, order, places, starts)
    return order


@njit(cache=True, nogil=True)
def rank_scratch(size):
    """What [`rank_cell`] works in, for cells of at most `size` genes."""
    return (
        np.empty(size, np.float64),
        np.empty(size, np.uint64),
        np.empty(size, np.int32),
        np.empty(size, np.uint16),
        np.empty(MAX_BUCKETS, np.int32),
    )


@njit(cache=True, nogil=True)
def _encode(cells, totals, target_sum, factors, layout, out_ids, out_mask, start, stop):
    size = widest(cells, start, stop) + 1
    ids, values, scratch = np.empty(size, np.int32), np.empty(size, np.float64), rank_scratch(size)
    for i in range(start, stop):
        n = gather(cells, i, ids, values)
        kept = min(n, layout.max_genes)
        first = write_ids(layout, kept, out_ids[i], out_mask[i])
        if n:
            total = totals[i] if totals.size else _row_total(cells, i)
            order = rank_cell(ids, values, n, total, target_sum, factors, scratch)
            for j in range(kept):
                out_ids[i, first + j] = ids[order[j]]


def encode_rank(
    cells: Cells,
    layout: Layout,
    width: int,
    *,
    factors: np.ndarray,
    target_sum: float = 10_000.0,
    totals: np.ndarray | None = None,
    num_threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank the known genes of sound cells (see [`survey`]) and write them as padded rows.

    Args:
        cells: which rows, and what their columns are.
        layout: how a row looks; the first `max_genes` ranks are kept.
        width: length of a row; no cell may need more.
        factors: (largest token id + 1,) float64, positive and finite, by token id.
        target_sum: what a cell's counts are scaled to.
        totals: (cells,) float64, each cell's total count; None for the sum of its row, unknown genes included.
        num_threads: how many threads share the cells; the result does not depend on it.

    Returns:
        ids (cells, width) int64, mask (cells, width) int64.
    """
    n = cells.rows.size
    out = np.empty((n, width), np.int64), np.empty((n, width), np.int64)
    given = np.empty(0) if totals is None else np.ascontiguousarray(totals, dtype=np.float64)
    run(_encode, n, num_threads, cells, given, float(target_sum), factors, layout, *out)
    return out
