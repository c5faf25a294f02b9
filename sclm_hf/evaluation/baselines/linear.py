"""Logistic regression on log-normalised counts: on z-scores of all genes, or on principal components."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
from scipy.special import log_softmax

from ...errors import ConfigurationError, ExpressionError, require
from ...tokenization.encodings.zscored import SMALLEST_DEVIATION
from .baseline import Baseline, checked_labels, log1p_cp10k
from .measured import Measured, mean_and_variance

Z_CLIP = 10.0
"""Largest absolute z-score."""

MOST_BYTES = 4 * 2**30
"""So much memory the z-scores of the training cells may take."""

MOST_WEIGHTS = 1000
"""Up to so many weights of components of unequal length are fitted by Newton's method, in 10 steps and not a thousand;
its memory grows with their square."""

_BLOCK = 1000


class LinearBaseline(Baseline):
    """A method whose scores are `clip((log1p CP10k - means) / deviations) @ projection @ weights + biases`.

    Where cells come from data sets with different genes, `measured` says which of their genes were measured: means and
    deviations of a gene are over the cells that measure it, and the others count as its mean, as with `annotate`.

    Attributes:
        means, deviations: (n_genes,) what every gene is centred and divided by.
        projection: (n_genes, size) from genes to the space that cells are classified in.
        weights: (size, n_classes) from there to the classes.
        biases: (n_classes,).
    """

    means: np.ndarray
    deviations: np.ndarray
    projection: np.ndarray
    weights: np.ndarray
    biases: np.ndarray

    def fit(self, counts: Any, labels: Sequence[str], measured: Measured | None = None) -> "LinearBaseline":
        """As [`~baseline.Baseline.fit`]; all genes are measured in all cells unless `measured` says otherwise."""
        raise NotImplementedError

    def project(self, counts: Any, measured: Measured | None = None) -> np.ndarray:
        """(n_cells, size) cells in the space that they are classified in."""
        expression = log1p_cp10k(counts)
        used = np.flatnonzero(self.projection.any(axis=1))
        projected = np.empty((expression.shape[0], self.projection.shape[1]))
        for start in range(0, len(projected), _BLOCK):
            rows = slice(start, start + _BLOCK)
            known = None if measured is None else measured.of(rows)
            values = zscores(expression[rows], self.means, self.deviations, used, known)
            projected[rows] = values @ self.projection[used]
        return projected

    def predict_log_proba(self, counts: Any, measured: Measured | None = None) -> np.ndarray:
        return log_softmax(self.project(counts, measured) @ self.weights + self.biases, axis=1)


class ZScoredLogisticRegression(LinearBaseline):
    """Multinomial logistic regression on z-scores of log1p CP10k counts, as CellTypist scales them.

    Every gene is centred and divided by its deviation over the training cells (at least 0.1), and clipped at 10.

    Args:
        C: inverse of the strength of the L2 penalty, as in scikit-learn.
    """

    def __init__(self, *, C: float = 1.0) -> None:
        self.C = C

    def fit(self, counts: Any, labels: Sequence[str], measured: Measured | None = None) -> "ZScoredLogisticRegression":
        expression = log1p_cp10k(counts)
        labels = checked_labels(labels, expression.shape[0])
        self.means, variances = mean_and_variance(expression, measured)
        self.deviations = deviations_of(variances)
        # a gene that does not vary has z-scores of 0, and with them a weight of 0
        varies = np.flatnonzero(expression.getnnz(axis=0))
        check_memory(expression.shape[0], len(varies))
        values = zscores(expression, self.means, self.deviations, varies, measured)
        self.classes, weights, self.biases = logistic_regression(values, labels, self.C)
        self.projection = np.zeros((expression.shape[1], len(self.classes)))
        self.projection[varies] = weights
        self.weights = np.eye(len(self.classes))
        return self


class PCALogisticRegression(LinearBaseline):
    """PCA and multinomial logistic regression on log1p CP10k counts.

    Counts of a cell are scaled to 10,000 and log1p-transformed. The `n_genes` most variable genes of the training
    cells are kept; their principal components go as they are to a logistic regression with L2 penalty.

    With five labels per class, on three sets of PBMCs (Symphony's three platforms, CITE-seq, Kang's), its mean
    macro-F1 was 0.026 to 0.035 above that of [`ZScoredLogisticRegression`] (`benchmarks/results/evidence.json`).
    [`ScaledPCALogisticRegression`] was within 0.002 of the latter there. Which is best depends on the cells.

    Args:
        scale: whether genes are turned into z-scores before the PCA, as [`ZScoredLogisticRegression`] does, or centred
            alone.
        n_components: principal components; fewer where there are fewer genes or cells.
        n_genes: genes kept; all of them where there are fewer.
        C: inverse of the strength of the L2 penalty, as in scikit-learn.
        seed: seed of the solver of the PCA.
    """

    def __init__(
        self, *, scale: bool = False, n_components: int = 50, n_genes: int = 2000, C: float = 1.0, seed: int = 0
    ) -> None:
        self.scale = scale
        self.n_components = n_components
        self.n_genes = n_genes
        self.C = C
        self.seed = seed

    def fit(self, counts: Any, labels: Sequence[str], measured: Measured | None = None) -> "PCALogisticRegression":
        labels = checked_labels(labels, counts.shape[0])
        components = self.fit_projection(log1p_cp10k(counts), measured)
        self.classes, self.weights, self.biases = logistic_regression(components, labels, self.C, unequal=True)
        return self

    def fit_projection(self, expression: scipy.sparse.csr_matrix, measured: Measured | None = None) -> np.ndarray:
        """Fit all but the classifier on log-normalised counts; returns what `project` gives for these cells."""
        self.means, variances = mean_and_variance(expression, measured)
        self.deviations = deviations_of(variances) if self.scale else np.ones_like(variances)
        # ascending numbers of the genes whose log-normalised counts vary most
        self.genes = np.sort(np.argsort(-variances, kind="stable")[: self.n_genes])
        values = zscores(expression, self.means, self.deviations, self.genes, measured)
        loadings = principal_axes(values, self.n_components, self.seed)
        self.projection = np.zeros((expression.shape[1], loadings.shape[1]))
        self.projection[self.genes] = loadings
        # not centred again, as nothing that follows depends on where the origin is
        return values @ loadings


class ScaledPCALogisticRegression(PCALogisticRegression):
    """scaled PCA+LR: [`PCALogisticRegression`] on z-scores of the most variable genes, each of the same weight.

    Args:
        n_components, n_genes, C, seed: those of [`PCALogisticRegression`].
    """

    def __init__(self, *, n_components: int = 50, n_genes: int = 2000, C: float = 1.0, seed: int = 0) -> None:
        super().__init__(scale=True, n_components=n_components, n_genes=n_genes, C=C, seed=seed)


def deviations_of(variances: np.ndarray) -> np.ndarray:
    """(n_genes,) what genes are divided by: their deviations, at least `SMALLEST_DEVIATION`."""
    return np.maximum(np.sqrt(variances), SMALLEST_DEVIATION)


def zscores(
    expression: scipy.sparse.csr_matrix,
    means: np.ndarray,
    deviations: np.ndarray,
    genes: np.ndarray,
    measured: Measured | None = None,
) -> np.ndarray:
    """(n_cells, genes) clipped z-scores of some genes, given by their numbers; 0 where a gene is not measured."""
    values = expression[:, genes].toarray()
    values -= means[genes]
    values /= deviations[genes]
    if measured is not None:
        measured.leave_out(values, genes)
    return np.clip(values, -Z_CLIP, Z_CLIP, out=values)


def check_memory(n_cells: int, n_genes: int) -> None:
    """Refuse what does not fit into memory.

    Raises:
        ConfigurationError: the z-scores take more than `MOST_BYTES`.
    """
    if n_cells * n_genes * 8 > MOST_BYTES:
        most = MOST_BYTES // (8 * n_genes)
        raise ConfigurationError(
            f"The z-scores of {n_cells:,} cells and {n_genes:,} genes take {n_cells * n_genes * 8 / 2**30:.1f} GB, "
            f"and at most {MOST_BYTES / 2**30:.0f} GB are used: "
            f"fit on {most:,} cells or fewer, drawn from every label."
        )


def principal_axes(values: np.ndarray, n_components: int, seed: int) -> np.ndarray:
    """(n_features, n_components) loadings of (n_cells, n_features) values; fewer of them where there is less.

    Raises:
        ExpressionError: there are fewer than two cells or genes, or all cells are the same.
    """
    decomposition = require("sklearn.decomposition", extra="evaluation")
    if min(values.shape) < 2 or (values == values[:1]).all():
        raise ExpressionError(
            f"{len(values):,} cells with {values.shape[1]:,} genes have no principal components: it takes two of "
            "each, and cells that differ."
        )
    n_components = min(n_components, *(size - 1 for size in values.shape))
    return decomposition.PCA(n_components, svd_solver="arpack", random_state=seed).fit(values).components_.T


def logistic_regression(
    values: np.ndarray, labels: np.ndarray, C: float, *, unequal: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """scikit-learn's multinomial logistic regression, in the space of the cells where these are fewer than features.

    The penalty is the same in every rotation of the features, and the weights that it chooses are sums of cells. So a
    rotation into the few directions in which the cells differ gives the same weights in a fraction of the time.

    Args:
        values: (n_cells, n_features).
        labels: (n_cells,).
        C: inverse of the strength of the penalty.
        unequal: whether the features differ much in their deviations, so that L-BFGS would need many steps.

    Returns:
        (n_classes,) classes, (n_features, n_classes) weights and (n_classes,) biases.
    """
    linear_model = require("sklearn.linear_model", extra="evaluation")
    rotation = None
    if values.shape[0] < values.shape[1]:
        squares, vectors = np.linalg.eigh(values @ values.T)
        kept = squares > squares[-1] * 1e-10
        lengths = np.sqrt(squares[kept])
        rotation = vectors[:, kept] / lengths
        features = vectors[:, kept] * lengths
    else:
        features = values
    few = rotation is None and features.shape[1] * len(np.unique(labels)) <= MOST_WEIGHTS
    solver = "newton-cholesky" if unequal and few else "lbfgs"
    classifier = linear_model.LogisticRegression(C=C, max_iter=5000, tol=1e-6, solver=solver)
    # threads wait for one another longer than such small products take
    with require("threadpoolctl", extra="evaluation").threadpool_limits(1 if few else None):
        classifier.fit(features, labels)
    weights, biases = classifier.coef_.T, classifier.intercept_
    if len(classifier.classes_) == 2:
        # scikit-learn keeps the second class alone; the first one has a score of 0
        weights, biases = np.hstack([np.zeros_like(weights), weights]), np.append(0.0, biases)
    return classifier.classes_, weights if rotation is None else values.T @ (rotation @ weights), biases
