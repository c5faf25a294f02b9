"""Denoised expression scored on reads that were held out, beside simple methods."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy.sparse

from ...errors import ExpressionError
from ...evaluation.baselines.baseline import log1p_cp10k
from ...evaluation.thinning import thin_counts
from .posterior import Prior
from .scores import similar_cells

SHARE = 0.1
"""Share of the reads that are held out."""

_FEWEST = 20
_BLOCK = 512


def thinned_scores(
    counts: scipy.sparse.csr_matrix,
    predict: Callable[[scipy.sparse.csr_matrix], np.ndarray],
    seed: int,
    *,
    cell_ids: np.ndarray,
    genes: Sequence[str],
    read: np.ndarray,
    scored: np.ndarray,
) -> dict[str, dict[str, float]]:
    """How well what a method makes of nine tenths of the reads tells where the other tenth lies.

    Reads are held out as in molecular cross-validation (Batson, Royer, Webber, "Molecular cross-validation for
    single-cell RNA-seq", bioRxiv 2019, https://doi.org/10.1101/786269): both parts are samples of the same cell, so
    that zeros count too. Values of a method are taken as shares of a cell's reads, negative ones as 0.

    Args:
        counts: (cells, genes) of all measured genes.
        predict: the reads that are left -> (cells, genes scored) log-normalised expression.
        seed: seed of what is held out.
        cell_ids: (cells,) uint64, made from the names of the cells.
        genes: (genes,) their names.
        read: columns of the genes that the model reads; the others are held out alike.
        scored: columns of the genes scored.

    Returns:
        Of `model` and `similar cells` (the mean of a cell and its nearest), both also `with counts` (see [`Prior`]),
        `gene mean` and `counts` (those that are left, as they are): `correlation`, over cells, the mean of all genes
        scored; and `error`, squared and divided by the variance that chance gives a gene, as a multiple of the `gene
        mean`'s.

    Raises:
        ExpressionError: too few reads could be held out, or a cell has none.
    """
    counts = scipy.sparse.csr_matrix(counts, dtype=np.float64)
    # a few of what passes as counts may be fractional, and reads are whole
    counts = counts.rint()
    left = thin_counts(counts, share=1 - SHARE, cell_ids=cell_ids, genes=genes, seed=seed)
    held_out = scipy.sparse.csr_matrix(counts - left)[:, scored]
    kept = scipy.sparse.csc_matrix(left[:, scored])
    is_told = (_sums(kept, 0) > 0) & (_sums(held_out, 0) > 0)
    cells = np.flatnonzero(_sums(held_out[:, is_told], 1))
    if held_out[:, is_told].sum() < _FEWEST:
        raise ExpressionError(
            f"The cells have {int(counts[:, scored].sum()):,} reads in these genes, too few to hold a tenth of them "
            "out for `score`: leave it out (`--no-score`), or give more cells or genes."
        )
    columns = np.flatnonzero(is_told)
    normalised = log1p_cp10k(left)
    graph = similar_cells(normalised, seed)
    shares = normalised[:, scored].expm1()
    model, similar = np.maximum(np.expm1(predict(left)), 0), _dense(graph @ shares + shares)
    observed = _dense(kept)
    model_and_counts, similar_and_counts = (
        Prior.of_cells(one, observed).posterior_means(one, observed) for one in (model, similar)
    )
    methods = {
        "model": model,
        "model with counts": model_and_counts,
        "similar cells": similar,
        "similar cells with counts": similar_and_counts,
        "gene mean": np.broadcast_to(_sums(kept, 0), kept.shape),
        "counts": kept,
    }
    return _scores(methods, held_out.tocsc(), cells, columns)


def _scores(
    methods: Mapping[str, np.ndarray | scipy.sparse.spmatrix],
    held_out: scipy.sparse.csc_matrix,
    cells: np.ndarray,
    columns: np.ndarray,
) -> dict[str, dict[str, float]]:
    """The scores of methods from their (cells, genes) values, some genes at a time."""
    methods = {name: values.tocsc() if scipy.sparse.issparse(values) else values for name, values in methods.items()}
    totals = {name: _sums(values[:, columns], 1)[cells] for name, values in methods.items()}
    n_reads = _sums(held_out[:, columns], 1)[cells]
    correlation, error = dict.fromkeys(methods, 0.0), dict.fromkeys(methods, 0.0)
    for start in range(0, len(columns), _BLOCK):
        block = columns[start : start + _BLOCK]
        truth = _dense(held_out[:, block])[cells]
        shares = {
            name: _dense(values[:, block])[cells] / np.where(totals[name] > 0, totals[name], 1)[:, None]
            for name, values in methods.items()
        }
        expected = n_reads[:, None] * shares["gene mean"]
        for name, share in shares.items():
            correlation[name] += _correlations(share, truth / n_reads[:, None]).sum()
            error[name] += ((truth - n_reads[:, None] * share) ** 2 / expected).sum()
    return {
        name: {"correlation": correlation[name] / len(columns), "error": error[name] / error["gene mean"]}
        for name in methods
    }


def _correlations(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(genes,) correlations over cells, 0 where one of the two does not vary."""
    varies = (np.ptp(predicted, axis=0) > 0) & (np.ptp(truth, axis=0) > 0)
    one, other = predicted - predicted.mean(axis=0), truth - truth.mean(axis=0)
    size = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
    return np.where(varies, (one * other).sum(axis=0) / np.where(size > 0, size, 1), 0.0)


def _sums(values: np.ndarray | scipy.sparse.spmatrix, axis: int) -> np.ndarray:
    return np.asarray(values.sum(axis=axis), np.float64).ravel()


def _dense(values: np.ndarray | scipy.sparse.spmatrix) -> np.ndarray:
    return np.asarray(values.toarray() if scipy.sparse.issparse(values) else values, np.float64)
