"""Counts of cells made fewer, as if they had been sequenced less deeply."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from ..errors import ConfigurationError
from ..tokenization.encodings.kernels import kernel
from ..tokenization.encodings.keys import Stream, cell_keys, gene_counters, hash_names, substream, uniform
from ..tokenization.encodings.thinning import binomial_quantile


@kernel
def _thin(indptr, indices, data, keys, counters, rates, out):
    for i in range(keys.size):
        reads_key = substream(keys[i], Stream.SHALLOW_READS)
        for j in range(indptr[i], indptr[i + 1]):
            reads = np.rint(data[j])
            out[j] = (
                reads
                if rates[i] >= 1
                else binomial_quantile(uniform(reads_key, counters[indices[j]]), reads, rates[i])
            )


def thin_counts(
    counts: Any,
    *,
    share: float | None = None,
    depth: float | None = None,
    names: Sequence[str] | None = None,
    cell_ids: np.ndarray | None = None,
    genes: Sequence[str] | None = None,
    seed: int = 0,
) -> scipy.sparse.csr_matrix:
    """Keep each read of a cell with the same probability.

    What is drawn belongs to the cell, the gene and the seed, whatever other cells come along. A cell always keeps at
    least one read: one that would lose all keeps those that it has.

    Args:
        counts: (n_cells, n_genes) raw counts, sparse or dense.
        share: share of the reads to keep, in (0, 1].
        depth: instead of `share`, the reads that a cell is left with on average; cells with fewer stay as they are.
        names: (n_cells,) names of the cells, to which the draws belong; without them, their positions.
        cell_ids: (n_cells,) hashes of the names, instead of them.
        genes: (n_genes,) names of the genes, to which the draws belong; without them, their columns.
        seed: seed of the draws.

    Returns:
        (n_cells, n_genes) counts.

    Raises:
        ConfigurationError: not exactly one of `share` and `depth` is given, or it is out of range.
    """
    counts = scipy.sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    counts.sum_duplicates()
    totals = np.asarray(counts.sum(axis=1)).ravel()
    rates = _rates(totals, share, depth)
    if cell_ids is None:
        cell_ids = np.arange(len(totals)) if names is None else hash_names(names)
    keys = cell_keys(cell_ids, seed, 0)
    thinned = np.empty_like(counts.data)
    counters = np.arange(counts.shape[1]) if genes is None else gene_counters(genes)
    _thin(counts.indptr, counts.indices, counts.data, keys, counters, rates, thinned)
    result = scipy.sparse.csr_matrix((thinned, counts.indices, counts.indptr), counts.shape)
    empty = np.asarray(result.sum(axis=1)).ravel() == 0
    kept = np.repeat(empty, np.diff(counts.indptr))
    result.data[kept] = counts.data[kept]
    result.eliminate_zeros()
    return result


def _rates(totals: np.ndarray, share: float | None, depth: float | None) -> np.ndarray:
    if (share is None) == (depth is None):
        raise ConfigurationError("Cells are thinned to a `share` of their reads or to a `depth`: give one of them.")
    if share is not None:
        if not 0 < share <= 1:
            raise ConfigurationError(f"`share` is a share of the reads, above 0 and at most 1; got {share!r}.")
        return np.full(len(totals), float(share))
    if not depth > 0:
        raise ConfigurationError(f"`depth` is a number of reads above 0; got {depth!r}.")
    return np.minimum(depth / np.maximum(totals, 1), 1.0)
