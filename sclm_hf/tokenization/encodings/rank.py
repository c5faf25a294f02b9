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
    total = 0.0
    for value in cells.data[cells.indptr[cells.rows[i]] : cells.indptr[cells.rows[i] + 1]]:
        total += value
    return total


@njit(cache=True, nogil=True)
def _encode(cells, totals, target_sum, factors, layout, out_ids, out_mask, start, stop):
    size = widest(cells, start, stop) + 1
    ids, columns, order = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.int32)
    values, ordered = np.empty(size, np.float64), np.empty(size, np.uint64)
    counts = np.empty(MAX_BUCKETS + 1, np.int32)
    keys = values.view(np.uint64)
    for i in range(start, stop):
        n = gather(cells, i, ids, values, columns)
        share = 1 / (totals[i] if totals.size else _row_total(cells, i))
        for j in range(n):
            values[j] = values[j] * share * target_sum * factors[ids[j]]
            keys[j] = ~keys[j]
        if n:
            stable_sort(keys, n, ordered, order, counts)
        kept = min(n, layout.max_genes)
        first = write_ids(layout, kept, out_ids[i], out_mask[i])
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
