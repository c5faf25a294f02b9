"""Imputed expression scored on counts that were hidden, beside the mean of the gene and that of similar cells."""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse

from ...errors import ExpressionError, require
from ...evaluation.baselines.baseline import log1p_cp10k
from ...tokenization.encodings.keys import Stream, cell_keys, gene_counters, uniforms_for

SHARE = 0.1
"""Share of the counts above 0 that are hidden."""

MOST_CELLS = 5000
"""Cells that are scored at most, as predictions of all their genes are in memory at once."""

_FEWEST = 20
_N_NEIGHBOURS, _N_COMPONENTS = 15, 50


def chosen_cells(cell_ids: np.ndarray, seed: int) -> np.ndarray:
    """(cells,) ascending rows of the cells that are scored, chosen by their names."""
    if len(cell_ids) <= MOST_CELLS:
        return np.arange(len(cell_ids))
    return np.sort(np.argsort(cell_keys(cell_ids, seed, 0), kind="stable")[:MOST_CELLS])


def hidden_scores(
    counts: scipy.sparse.csr_matrix,
    predict: Callable[[scipy.sparse.csr_matrix], np.ndarray],
    seed: int,
    *,
    cell_ids: np.ndarray,
    genes: Sequence[str],
    read: np.ndarray,
    scored: np.ndarray,
) -> dict[str, dict[str, float]]:
    """How near to the truth predictions of hidden counts are.

    A tenth of the counts above 0 of the genes that the model reads is set to 0, drawn by the names of cell and gene.
    All methods see what is left, and are compared on what was hidden of the genes scored, as logarithms of counts per
    10,000 of all measured genes. Only counts above 0 are asked for, which are higher than a gene is on average:
    compare methods, and do not read the errors as those of a gene that was not measured.

    Args:
        counts: (cells, genes) of all measured genes.
        predict: counts of which some are hidden -> (cells, genes scored) log-normalised expression.
        seed: seed of what is hidden.
        cell_ids: (cells,) uint64, made from the names of the cells.
        genes: (genes,) their names.
        read: columns of the genes that the model reads.
        scored: columns of the genes scored.

    Returns:
        Method -> `pearson` (over all hidden counts) and `rmse`.

    Raises:
        ExpressionError: too few counts could be hidden, or a cell would be left without any.
    """
    # what is read from a file has numbers of different widths
    arrays = counts.data.astype(np.float64), counts.indices, counts.indptr
    counts = scipy.sparse.csr_matrix(arrays, counts.shape, copy=True)
    counts.eliminate_zeros()
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    is_read = np.isin(counts.indices, read)
    is_hidden = is_read & (_draws(counts, cell_keys(cell_ids, seed, 0), genes) < SHARE)
    kept = np.bincount(rows[is_read & ~is_hidden], minlength=counts.shape[0])
    is_hidden &= kept[rows] > 0
    is_scored = is_hidden & np.isin(counts.indices, scored)
    if is_scored.sum() < _FEWEST:
        raise ExpressionError(
            f"The cells have {np.isin(counts.indices, scored).sum():,} counts above 0 in these genes, too few to hide "
            "a tenth of them for `score` (`--score`): leave it out, or give more cells or genes."
        )
    truth = log1p_cp10k(counts).data[is_scored]
    left = counts.copy()
    left.data[is_hidden] = 0
    left.eliminate_zeros()
    cells, columns = rows[is_scored], counts.indices[is_scored]
    place = np.zeros(counts.shape[1], np.int64)
    place[scored] = np.arange(len(scored))
    normalised = log1p_cp10k(left)
    methods = {
        "model": predict(left)[cells, place[columns]],
        "similar cells": _of_similar_cells(normalised, scored, seed)[cells, place[columns]],
        "gene mean": np.asarray(normalised.mean(axis=0)).ravel()[columns],
    }
    return {name: _score(np.asarray(values, np.float64).ravel(), truth) for name, values in methods.items()}


def _draws(counts: scipy.sparse.csr_matrix, keys: np.ndarray, genes: Sequence[str]) -> np.ndarray:
    """(counts above 0,) uniform draws in [0, 1)."""
    counters, drawn = gene_counters(genes), np.empty(counts.nnz)
    for cell in range(len(keys)):
        part = slice(counts.indptr[cell], counts.indptr[cell + 1])
        drawn[part] = uniforms_for(keys[cell : cell + 1], Stream.COUNT_HIDDEN, counters[counts.indices[part]][None])
    return drawn


def similar_cells(normalised: scipy.sparse.csr_matrix, seed: int) -> scipy.sparse.csr_matrix:
    """(cells, cells) 1 for the nearest other cells of each among principal components.

    Args:
        normalised: (cells, genes) log-normalised counts.
        seed: seed of the components.
    """
    decomposition = require("sklearn.decomposition", extra="evaluation")
    neighbors = require("sklearn.neighbors", extra="evaluation")
    n_components = min(_N_COMPONENTS, min(normalised.shape) - 1)
    places = decomposition.TruncatedSVD(n_components, random_state=seed).fit_transform(normalised)
    k = min(_N_NEIGHBOURS, len(places) - 1)
    return neighbors.NearestNeighbors(n_neighbors=k).fit(places).kneighbors_graph()


def _of_similar_cells(normalised: scipy.sparse.csr_matrix, scored: np.ndarray, seed: int) -> np.ndarray:
    """(cells, genes scored) means over similar cells."""
    graph = similar_cells(normalised, seed)
    return (graph @ normalised[:, scored] / graph[0].nnz).toarray()


def _score(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    varies = np.ptp(predicted) > 0 and np.ptp(truth) > 0
    pearson = float(np.corrcoef(predicted, truth)[0, 1]) if varies else 0.0
    return {"pearson": pearson, "rmse": float(np.sqrt(np.mean((predicted - truth) ** 2)))}
