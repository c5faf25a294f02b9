"""What simple methods score on the cells that labels are scored on."""

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from ...errors import ExpressionError, SclmError
from ...evaluation.baselines.baseline import predict_splits
from ...evaluation.baselines.linear import PCALogisticRegression
from ...evaluation.metrics import METRICS, Predictions, estimate
from ...evaluation.splits import stratified_folds
from ...sources.cell_source import CellSource
from ...tokenization.encodings.keys import Stream, cell_keys, uniforms_for
from ...tokenization.expression_matrix import FRACTIONAL_SHARE

N_FOLDS = 5
MOST_CELLS = 5000
"""Cells of the logistic regression, so that it takes seconds whatever the size of the file."""


def label_baselines(
    source: CellSource, cell_ids: np.ndarray, true: np.ndarray, scored: np.ndarray, seed: int
) -> dict[str, Any]:
    """The scores of the most frequent label, and of logistic regression that is taught labels of the very same cells.

    Args:
        source: the cells.
        cell_ids: (n_cells,) uint64 made from their names.
        true: (n_cells,) their labels.
        scored: (n_cells,) bool, which are scored.
        seed: seed of the cells that are drawn where there are many, of the folds and of the PCA.

    Returns:
        `most_frequent`: `label`, `accuracy` and `macro_f1`; `logistic_regression`: `accuracy`, `macro_f1`, `n_cells`
        and `n_folds`, or `left_out`, why there is none.
    """
    names, counts = np.unique(true[scored].astype(str), return_counts=True)
    most = str(names[counts.argmax()])
    guessed = Predictions("cells", np.flatnonzero(scored), true[scored], np.full(scored.sum(), most, dtype=object))
    try:
        taught = _logistic_regression(source, cell_ids, true, scored, seed)
    except SclmError as error:
        taught = {"left_out": str(error)}
    return {"most_frequent": {"label": most, **_scores(guessed)}, "logistic_regression": taught}


def _logistic_regression(
    source: CellSource, cell_ids: np.ndarray, true: np.ndarray, scored: np.ndarray, seed: int
) -> dict[str, Any]:
    names, counts = np.unique(true[scored].astype(str), return_counts=True)
    if len(names) < 2 or counts.min() < N_FOLDS:
        few = f"{str(names[counts.argmin()])!r} has {counts.min()}" if len(names) > 1 else "there is one label"
        return {"left_out": f"it takes two labels, and {N_FOLDS} cells of each that is scored; {few}"}
    drawn = _drawn(cell_ids, true, np.flatnonzero(scored), seed)
    matrix = _counts(source, drawn)
    labels, pca = true[drawn].astype(str), PCALogisticRegression(seed=seed)
    parts = predict_splits(pca, matrix, labels, stratified_folds(labels, N_FOLDS, seed=seed))
    tested = Predictions(
        "cells",
        np.concatenate([drawn[one.cells] for one in parts]),
        np.concatenate([one.true for one in parts]),
        np.concatenate([one.predicted for one in parts]),
    )
    return {**_scores(tested), "n_cells": len(drawn), "n_folds": N_FOLDS}


def _drawn(cell_ids: np.ndarray, true: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Rows of at most `MOST_CELLS` cells, ascending, with `N_FOLDS` of each label among them."""
    if len(rows) <= MOST_CELLS:
        return rows
    order = uniforms_for(cell_keys(cell_ids[rows], seed, 0), Stream.BASELINE_CELLS, 1)[:, 0]
    labels = true[rows].astype(str)
    for name in np.unique(labels):
        of_label = np.flatnonzero(labels == name)
        order[of_label[np.argsort(order[of_label], kind="stable")[:N_FOLDS]]] -= 1
    return np.sort(rows[np.argsort(order, kind="stable")[:MOST_CELLS]])


def _counts(source: CellSource, rows: np.ndarray) -> csr_matrix:
    """Counts of cells and all their genes.

    Raises:
        ExpressionError: these are no counts.
    """
    # a model may read some of the genes alone
    whole = getattr(source, "whole", source)
    matrix = whole.read(rows)
    whole.close()
    if (matrix.data % 1 != 0).sum() > FRACTIONAL_SHARE * matrix.data.size:
        raise ExpressionError(f"`{source.data_name}` holds no counts; `layer` (`--layer`) names where they are")
    return matrix


def _scores(tested: Predictions) -> dict[str, float]:
    return {metric: estimate([tested], metric, n_resamples=1).mean for metric in METRICS}
