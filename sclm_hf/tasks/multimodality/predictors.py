"""The other modality predicted on held-out cells: simple predictors first, then the embedding, then both."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ConfigurationError, require
from ...evaluation.baselines.baseline import log1p_cp10k
from ...evaluation.baselines.linear import PCALogisticRegression, zscores

EMBEDDING, PCA, BOTH = "embedding", "pca", "embedding and pca"
RIDGES = (PCA, EMBEDDING, BOTH)
"""What ridge regressions read; these can be saved as a head."""

METHODS = ("mean", "neighbours", *RIDGES)
PENALTIES = np.logspace(-4, 4, 17)
N_NEIGHBOURS = 15


@dataclass(frozen=True)
class Ridge:
    """Ridge regression of every feature, each with the penalty of the best leave-one-out error.

    Attributes:
        weights: (size, n_features) from inputs to features.
        biases: (n_features,).
        penalties: (n_features,).
    """

    weights: np.ndarray
    biases: np.ndarray
    penalties: np.ndarray

    @classmethod
    def fit(cls, inputs: np.ndarray, values: np.ndarray) -> "Ridge":
        """Fit on (n_cells, size) inputs and (n_cells, n_features) values; penalties are shares of the variance."""
        linear_model = require("sklearn.linear_model", extra="evaluation")
        scale = _scale(inputs)
        fitted = linear_model.RidgeCV(PENALTIES * len(inputs), alpha_per_target=True).fit(inputs / scale, values)
        return cls(fitted.coef_.T / scale, np.asarray(fitted.intercept_), np.asarray(fitted.alpha_))

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """(n_cells, n_features)."""
        return inputs @ self.weights + self.biases


@dataclass(frozen=True)
class Projection:
    """Principal components of log-normalised counts, for cells of any file.

    Attributes:
        genes: (n_genes,) names of the genes that they are made of.
        means: (n_genes,) what is subtracted.
        loadings: (n_genes, size).
    """

    genes: Sequence[str]
    means: np.ndarray
    loadings: np.ndarray

    @classmethod
    def fit(cls, counts: Any, genes: Sequence[str], seed: int) -> "Projection":
        """Fit on (n_cells, n_genes) counts; `genes` are the names of the columns."""
        fitted = PCALogisticRegression(seed=seed)
        fitted.fit_projection(log1p_cp10k(counts))
        used = fitted.genes
        return cls([str(genes[column]) for column in used], fitted.means[used], fitted.projection[used])

    def of(self, counts: Any, genes: Sequence[str]) -> np.ndarray:
        """(n_cells, size) components of counts; a gene that they lack counts as its mean.

        Raises:
            ConfigurationError: a gene that is needed has several columns.
        """
        names = [str(name) for name in genes]
        column_of = {name: column for column, name in enumerate(names)}
        if len(column_of) < len(names) and (twice := {name for name in self.genes if names.count(name) > 1}):
            raise ConfigurationError(
                f"The RNA has several columns named {min(twice)!r}: add their counts up, or rename all but one."
            )
        there = np.flatnonzero([name in column_of for name in self.genes])
        columns = [column_of[self.genes[place]] for place in there]
        values = zscores(log1p_cp10k(counts)[:, columns], self.means[there], np.ones(len(there)), slice(None))
        return values @ self.loadings[there]


def fit_ridge(
    method: str, counts: Any, genes: Sequence[str], embedding: np.ndarray, values: np.ndarray, seed: int
) -> tuple[Ridge, Projection | None]:
    """The ridge regression of a method on all cells, and the components that it reads; the embedding stands first."""
    if method == EMBEDDING:
        return Ridge.fit(embedding, values), None
    projection = Projection.fit(counts, genes, seed)
    components = projection.of(counts, genes)
    if method == PCA:
        return Ridge.fit(components, values), projection
    blocks = embedding, components
    scales = np.concatenate([np.full(block.shape[1], _scale(block)) for block in blocks])
    ridge = Ridge.fit(np.hstack(blocks) / scales, values)
    return dataclasses.replace(ridge, weights=ridge.weights / scales[:, None]), projection


def folds_of(names: Any, n_folds: int, seed: int) -> np.ndarray:
    """(n_cells,) the fold that holds each cell out; whatever the order of the cells."""
    folds = np.empty(len(names), np.int64)
    folds[np.argsort(np.asarray(names, str))] = np.random.default_rng(seed).permutation(len(names)) % n_folds
    return folds


def held_out_predictions(
    counts: Any, embedding: np.ndarray, values: np.ndarray, folds: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """(n_cells, n_features) predictions of each method, for every cell by what was fitted without its fold.

    Args:
        counts: (n_cells, n_genes) counts of RNA.
        embedding: (n_cells, size) the frozen model's.
        values: (n_cells, n_features) of the other modality.
        folds: (n_cells,) see [`folds_of`].
        seed: seed of the principal components.
    """
    predictions = {name: np.empty_like(values) for name in METHODS}
    for fold in np.unique(folds):
        learnt, held = folds != fold, folds == fold
        of_fold = _predicted(counts, embedding, values, learnt, held, seed)
        for name, predicted in zip(METHODS, of_fold, strict=True):
            predictions[name][held] = predicted
    return predictions


def _predicted(counts, embedding, values, learnt, held, seed) -> list[np.ndarray]:
    """The predictions of all methods for one fold, in their order."""
    neighbors = require("sklearn.neighbors", extra="evaluation")
    components = PCALogisticRegression(seed=seed)
    pca = components.fit_projection(log1p_cp10k(counts[learnt])), components.project(counts[held])
    own = embedding[learnt], embedding[held]
    both = [np.hstack([a / _scale(own[0]), b / _scale(pca[0])]) for a, b in zip(own, pca, strict=True)]
    voters = neighbors.KNeighborsRegressor(min(N_NEIGHBOURS, int(learnt.sum()))).fit(pca[0], values[learnt])
    mean = np.broadcast_to(values[learnt].mean(axis=0), values[held].shape)
    ridges = [Ridge.fit(inputs[0], values[learnt]).predict(inputs[1]) for inputs in (pca, own, both)]
    return [mean, voters.predict(pca[1]), *ridges]


def _scale(inputs: np.ndarray) -> float:
    """By what inputs are divided for a total variance of 1, so that blocks of them weigh alike."""
    return float(np.sqrt(inputs.var(axis=0).sum())) or 1.0
