"""The protocol of all baselines, and the normalisation that they share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from ...errors import ConfigurationError, ExpressionError
from ...logging import counted
from ..metrics import Predictions
from ..splits import Split


class Baseline:
    """A simple method that learns cell labels from raw counts.

    Fitting again forgets what was fitted before. Nothing but the cells given to `fit` has a part in it.

    Attributes:
        classes: (n_classes,) labels that were fitted, sorted; the columns of `predict_log_proba`.
    """

    classes: np.ndarray

    def fit(self, counts: Any, labels: Sequence[str]) -> "Baseline":
        """Fit on (n_cells, n_genes) raw `counts`, sparse or dense, and (n_cells,) `labels`.

        Raises:
            ExpressionError: the counts are not counts, or a cell has none.
            ConfigurationError: there are fewer than two different labels, or not one label per cell.
        """
        raise NotImplementedError

    def predict_log_proba(self, counts: Any) -> np.ndarray:
        """(n_cells, n_classes) log-probabilities for (n_cells, n_genes) raw counts of the genes that `fit` saw."""
        raise NotImplementedError

    def predict(self, counts: Any) -> np.ndarray:
        """(n_cells,) most probable labels for (n_cells, n_genes) raw counts of the genes that `fit` saw."""
        return self.classes[self.predict_log_proba(counts).argmax(axis=1)]


def predict_splits(
    baseline: Baseline, counts: Any, labels: Sequence[str], splits: Sequence[Split], *, test_counts: Any = None
) -> list[Predictions]:
    """Fit a baseline on the training cells of every split and predict the test cells.

    Args:
        baseline: what to fit; it is left as fitted on the last split.
        counts: (n_cells, n_genes) raw counts, sparse or dense.
        labels: (n_cells,) label of every cell.
        splits: the splits, as made by `splits.py`.
        test_counts: (n_cells, n_genes) counts of the same cells to predict from, such as thinned ones
            ([`~thinning.thin_counts`]); `counts` unless given.
    """
    counts = scipy.sparse.csr_matrix(counts)
    test_counts = counts if test_counts is None else scipy.sparse.csr_matrix(test_counts)
    labels = np.asarray(labels, dtype=str)
    results = []
    for split in splits:
        baseline.fit(counts[split.train], labels[split.train])
        predicted = baseline.predict(test_counts[split.test])
        results.append(Predictions(split.name, split.test, labels[split.test], predicted))
    return results


def checked_labels(labels: Sequence[str], n_cells: int) -> np.ndarray:
    """(n_cells,) labels as strings.

    Raises:
        ConfigurationError: there are fewer than two different labels, or not one label per cell.
    """
    labels = np.asarray(labels, dtype=str)
    if labels.shape != (n_cells,):
        raise ConfigurationError(f"The baseline needs one label per cell: {n_cells} cells, {labels.size} labels.")
    if len(names := np.unique(labels)) < 2:
        raise ConfigurationError(f"The baseline needs cells of at least two labels, got {names.tolist()}.")
    return labels


def log1p_cp10k(counts: Any) -> scipy.sparse.csr_matrix:
    """log(1 + counts scaled to 10,000 per cell).

    Raises:
        ExpressionError: a count is negative or not finite, or a cell has no counts.
    """
    counts = scipy.sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    if not np.isfinite(counts.data).all() or (counts.data < 0).any():
        raise ExpressionError("The baseline needs raw counts: found negative or non-finite values.")
    totals = np.asarray(counts.sum(axis=1)).ravel()
    if (totals == 0).any():
        raise ExpressionError(f"{counted(int((totals == 0).sum()), 'cell')} without counts: leave them out.")
    counts.data = np.log1p(counts.data * np.repeat(1e4 / totals, np.diff(counts.indptr)))
    return counts
