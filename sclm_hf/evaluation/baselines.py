"""What a model has to beat: PCA and logistic regression on normalised counts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from ..errors import ConfigurationError, ExpressionError, require
from ..logging import counted
from .metrics import Predictions
from .splits import Split


class PCALogisticRegression:
    """PCA and multinomial logistic regression on log1p CP10k counts.

    Counts of a cell are scaled to 10,000 and log1p-transformed. The `n_genes` most variable genes of the training
    cells are kept and centred but not scaled: scaling would let genes with a handful of counts weigh as much as the
    markers. Their principal components go as they are to a logistic regression with L2 penalty, C = 1. Everything is
    fitted on the training cells alone.

    Args:
        n_components: principal components; fewer where there are fewer genes or cells.
        n_genes: genes kept; all of them where there are fewer.
        seed: seed of the solver of the PCA.
    """

    def __init__(self, *, n_components: int = 50, n_genes: int = 2000, seed: int = 0) -> None:
        self.n_components = n_components
        self.n_genes = n_genes
        self.seed = seed

    def fit(self, counts: Any, labels: Sequence[str]) -> "PCALogisticRegression":
        """Fit on (n_cells, n_genes) raw `counts`, sparse or dense, and (n_cells,) `labels`.

        Raises:
            ExpressionError: the counts are not counts, or a cell has none.
            ConfigurationError: there is only one label.
        """
        if len(set(labels)) < 2:
            raise ConfigurationError(f"The baseline needs cells of at least two labels, got {sorted(set(labels))}.")
        decomposition = require("sklearn.decomposition", extra="evaluation")
        linear_model = require("sklearn.linear_model", extra="evaluation")
        sparsefuncs = require("sklearn.utils.sparsefuncs", extra="evaluation")

        expression = log1p_cp10k(counts)
        _, variances = sparsefuncs.mean_variance_axis(expression, axis=0)
        self.genes = np.sort(np.argsort(-variances, kind="stable")[: self.n_genes])
        n_components = min(self.n_components, expression.shape[0] - 1, len(self.genes) - 1)
        self.pca = decomposition.PCA(n_components, svd_solver="arpack", random_state=self.seed)
        self.classifier = linear_model.LogisticRegression(max_iter=5000)
        self.classifier.fit(self.pca.fit_transform(expression[:, self.genes]), np.asarray(labels, dtype=str))
        return self

    def predict(self, counts: Any) -> np.ndarray:
        """(n_cells,) labels for (n_cells, n_genes) raw counts of the genes that `fit` saw."""
        return self.classifier.predict(self.pca.transform(log1p_cp10k(counts)[:, self.genes]))


def predict_splits(counts: Any, labels: Sequence[str], splits: Sequence[Split], **settings: Any) -> list[Predictions]:
    """Fit `PCALogisticRegression(**settings)` on the training cells of every split and predict its test cells.

    Args:
        counts: (n_cells, n_genes) raw counts, sparse or dense.
        labels: (n_cells,) label of every cell.
        splits: the splits, as made by `splits.py`.
        **settings: arguments of `PCALogisticRegression`.
    """
    counts = scipy.sparse.csr_matrix(counts)
    labels = np.asarray(labels, dtype=str)
    results = []
    for split in splits:
        fitted = PCALogisticRegression(**settings).fit(counts[split.train], labels[split.train])
        results.append(Predictions(split.name, split.test, labels[split.test], fitted.predict(counts[split.test])))
    return results


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
