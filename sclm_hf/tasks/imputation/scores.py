"""Imputed expression scored on counts that were hidden, beside the mean of the gene and that of similar cells."""

from collections.abc import Callable

import numpy as np
import scipy.sparse

from ...errors import ExpressionError, require
from ...evaluation.baselines.baseline import log1p_cp10k

SHARE = 0.1
"""Share of the counts above 0 that are hidden."""

_FEWEST = 20
_N_NEIGHBOURS, _N_COMPONENTS = 15, 50


def hidden_scores(
    counts: scipy.sparse.csr_matrix, predict: Callable[[scipy.sparse.csr_matrix], np.ndarray], seed: int
) -> dict[str, dict[str, float]]:
    """How near to the truth predictions of hidden counts are.

    A tenth of the counts above 0 is set to 0. All methods see what is left, and are compared on what was hidden, as
    logarithms of counts per 10,000. Only counts above 0 are asked for, which are higher than a gene is on average:
    compare methods, and do not read the errors as those of a gene that was not measured.

    Args:
        counts: (cells, genes) of the genes that are imputed.
        predict: counts of which some are hidden -> (cells, genes) log-normalised expression.
        seed: seed of what is hidden.

    Returns:
        Method -> `pearson` (over all hidden counts) and `rmse`.

    Raises:
        ExpressionError: too few counts could be hidden, or a cell would be left without any.
    """
    counts = scipy.sparse.csr_matrix(counts, dtype=np.float64)
    counts.eliminate_zeros()
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    is_hidden = np.random.default_rng(seed).random(counts.nnz) < SHARE
    kept = np.bincount(rows[~is_hidden], minlength=counts.shape[0])
    is_hidden &= kept[rows] > 0
    if is_hidden.sum() < _FEWEST:
        raise ExpressionError(
            f"The cells have {counts.nnz:,} counts above 0 in these genes, too few to hide a tenth of them for "
            "`score` (`--score`): leave it out, or give more cells or genes."
        )
    truth = log1p_cp10k(counts).data[is_hidden]
    left = counts.copy()
    left.data[is_hidden] = 0
    left.eliminate_zeros()
    at = rows[is_hidden], counts.indices[is_hidden]
    normalised = log1p_cp10k(left)
    methods = {
        "model": predict(left)[at],
        "similar cells": _of_similar_cells(normalised, seed)[at],
        "gene mean": np.asarray(normalised.mean(axis=0)).ravel()[at[1]],
    }
    return {name: _score(np.asarray(values, np.float64).ravel(), truth) for name, values in methods.items()}


def _of_similar_cells(normalised: scipy.sparse.csr_matrix, seed: int) -> np.ndarray:
    """(cells, genes) means over the nearest other cells among principal components."""
    decomposition = require("sklearn.decomposition", extra="evaluation")
    neighbors = require("sklearn.neighbors", extra="evaluation")
    n_components = min(_N_COMPONENTS, min(normalised.shape) - 1)
    places = decomposition.TruncatedSVD(n_components, random_state=seed).fit_transform(normalised)
    k = min(_N_NEIGHBOURS, len(places) - 1)
    graph = neighbors.NearestNeighbors(n_neighbors=k).fit(places).kneighbors_graph()
    return (graph @ normalised / k).toarray()


def _score(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    varies = np.ptp(predicted) > 0 and np.ptp(truth) > 0
    pearson = float(np.corrcoef(predicted, truth)[0, 1]) if varies else 0.0
    return {"pearson": pearson, "rmse": float(np.sqrt(np.mean((predicted - truth) ** 2)))}
