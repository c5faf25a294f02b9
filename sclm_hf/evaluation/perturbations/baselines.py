"""Simple predictors of the change of mean expression, which models of perturbations have to beat.

Each learns from the shifts of seen perturbations (mean expression of their cells, minus that of the controls) and
predicts those of others. Ahlmann-Eltze et al., Nature Methods 22, 1657-1661 (2025), found that no deep model beat the
additive and the linear one; kernel ridge on pseudobulks was among the best of the Virtual Cell Challenge of 2025.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from ...errors import ConfigurationError, require
from .features import GeneFeatures, Parts

ALPHAS = tuple(10.0**power for power in range(-3, 5))
N_COMPONENTS, PENALTY = 10, 0.1


class ShiftPredictor(ABC):
    """Predicts shifts of mean expression.

    Args:
        features: vectors of genes, for those that need them.
    """

    needs_features = False

    def __init__(self, features: GeneFeatures | None = None) -> None:
        self.features = features

    @abstractmethod
    def fit(self, seen: Sequence[Parts], shifts: np.ndarray) -> "ShiftPredictor":
        """Learn from perturbations.

        Args:
            seen: the genes of each; no two are the same.
            shifts: (len(seen), n_genes) their shifts.
        """

    @abstractmethod
    def predict(self, perturbations: Sequence[Parts]) -> np.ndarray:
        """(len(perturbations), n_genes) shifts."""


class NoChange(ShiftPredictor):
    """Perturbed cells are like controls."""

    def fit(self, seen: Sequence[Parts], shifts: np.ndarray) -> "NoChange":
        self._n_genes = shifts.shape[1]
        return self

    def predict(self, perturbations: Sequence[Parts]) -> np.ndarray:
        return np.zeros((len(perturbations), self._n_genes))


class MeanShift(ShiftPredictor):
    """All perturbations do what those seen do on average."""

    def fit(self, seen: Sequence[Parts], shifts: np.ndarray) -> "MeanShift":
        self._mean = shifts.mean(axis=0)
        return self

    def predict(self, perturbations: Sequence[Parts]) -> np.ndarray:
        return np.tile(self._mean, (len(perturbations), 1))


class AdditiveShift(ShiftPredictor):
    """A combination does what its genes do one by one, added up; an unseen gene does what seen ones do on average."""

    def fit(self, seen: Sequence[Parts], shifts: np.ndarray) -> "AdditiveShift":
        self._of = dict(zip(seen, shifts, strict=True))
        singles = [shift for parts, shift in self._of.items() if len(parts) == 1]
        self._mean = np.mean(singles if singles else shifts, axis=0)
        return self

    def predict(self, perturbations: Sequence[Parts]) -> np.ndarray:
        return np.stack([self._shift(parts) for parts in perturbations])

    def _shift(self, parts: Parts) -> np.ndarray:
        # one that was seen in other cells
        if parts in self._of:
            return self._of[parts]
        return np.sum([self._of.get((gene,), self._mean) for gene in parts], axis=0)


class NearestShift(ShiftPredictor):
    """A perturbation does what the seen one does whose genes have the most similar features, by cosine."""

    needs_features = True

    def fit(self, seen: Sequence[Parts], shifts: np.ndarray) -> "NearestShift":
        self._seen, self._shifts = _unit(self.features.of(seen)), shifts
        return self

    def predict(self, perturbations: Sequence[Parts]) -> np.ndarray:
        return self._shifts[(_unit(self.features.of(perturbations)) @ self._seen.T).argmax(axis=1)]


class LinearShift(ShiftPredictor):
    """A bilinear map: shifts = G W Pᵀ + mean, of Ahlmann-Eltze et al.

    G are the loadings of the genes that are read, on the principal components of the shifts seen; P are the features
    of the perturbed genes, reduced to as many; W is fitted by ridge regression on both sides.
    """

    needs_features = True

    def fit(self, seen: Sequence[Parts], shifts: np.ndarray) -> "LinearShift":
        self._mean = shifts.mean(axis=0)
        centred = shifts - self._mean
        loadings = np.linalg.svd(centred, full_matrices=False)[2][:N_COMPONENTS].T
        features = self.features.of(seen)
        self._centre = features.mean(axis=0)
        self._axes = np.linalg.svd(features - self._centre, full_matrices=False)[2][:N_COMPONENTS].T
        reduced = (features - self._centre) @ self._axes
        # the penalty means the same whatever the features are measured in
        self._scale = max(np.sqrt((reduced**2).mean()), 1e-12)
        reduced /= self._scale
        left = np.linalg.solve(loadings.T @ loadings + PENALTY * np.eye(loadings.shape[1]), loadings.T @ centred.T)
        self._weights = np.linalg.solve(reduced.T @ reduced + PENALTY * np.eye(reduced.shape[1]), reduced.T @ left.T)
        self._loadings = loadings
        return self

    def predict(self, perturbations: Sequence[Parts]) -> np.ndarray:
        reduced = (self.features.of(perturbations) - self._centre) @ self._axes / self._scale
        return reduced @ self._weights @ self._loadings.T + self._mean


class RidgeShift(ShiftPredictor):
    """scikit-learn's kernel ridge from features to pseudobulk shifts.

    The kernel (linear, or Gaussian with the median distance as its width) and the penalty are those with the smallest
    error on seen perturbations that are left out one at a time. A large penalty gives the mean of those seen.
    """

    needs_features = True

    def fit(self, seen: Sequence[Parts], shifts: np.ndarray) -> "RidgeShift":
        kernel_ridge = require("sklearn.kernel_ridge", extra="evaluation")
        preprocessing = require("sklearn.preprocessing", extra="evaluation")
        self._seen, self._mean = self.features.of(seen), shifts.mean(axis=0)
        centred = shifts - self._mean
        self._widths = {"linear": None, "gaussian": _median_distance(self._seen)}
        kernels = {name: self._kernel(name, self._seen) for name in self._widths}
        errors = {
            (name, alpha): _left_out_error(kernel, centred, alpha)
            for name, kernel in kernels.items()
            for alpha in ALPHAS
        }
        self.kernel, self.alpha = min(errors, key=errors.get)
        self._centerer = preprocessing.KernelCenterer().fit(kernels[self.kernel])
        self._ridge = kernel_ridge.KernelRidge(kernel="precomputed", alpha=self.alpha)
        self._ridge.fit(self._centerer.transform(kernels[self.kernel]), centred)
        return self

    def predict(self, perturbations: Sequence[Parts]) -> np.ndarray:
        kernel = self._kernel(self.kernel, self.features.of(perturbations))
        return self._ridge.predict(self._centerer.transform(kernel)) + self._mean

    def _kernel(self, name: str, features: np.ndarray) -> np.ndarray:
        if name == "linear":
            # of mean 1 on the diagonal, so that penalties mean the same for all features
            return features @ self._seen.T / max((self._seen**2).sum(axis=1).mean(), 1e-12)
        return np.exp(-_squared_distances(features, self._seen) / (2 * self._widths[name] ** 2))


PREDICTORS: dict[str, type[ShiftPredictor]] = {
    "no change": NoChange,
    "mean": MeanShift,
    "additive": AdditiveShift,
    "nearest": NearestShift,
    "linear": LinearShift,
    "ridge": RidgeShift,
}


def fit_predictor(
    name: str, seen: Sequence[Parts], shifts: np.ndarray, features: GeneFeatures | None = None
) -> ShiftPredictor:
    """Fit one of `PREDICTORS`, on the seen perturbations whose genes have features where it needs these.

    Raises:
        ConfigurationError: fewer than two of them have.
    """
    predictor = PREDICTORS[name](features)
    if not predictor.needs_features:
        return predictor.fit(seen, shifts)
    known = [row for row, parts in enumerate(seen) if features is not None and features.has(parts)]
    if len(known) < 2:
        raise ConfigurationError(
            f"`{name}` needs features of the perturbed genes, and {len(known)} of the {len(seen)} perturbations to "
            "learn from have them: give a table of genes or a model with `features` (`--features`)."
        )
    return predictor.fit([seen[row] for row in known], shifts[known])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _squared_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T
    return np.maximum(squares, 0)


def _median_distance(features: np.ndarray) -> float:
    distances = np.sqrt(_squared_distances(features, features)[np.triu_indices(len(features), 1)])
    return float(np.median(distances)) or 1.0


def _left_out_error(kernel: np.ndarray, shifts: np.ndarray, alpha: float) -> float:
    """Sum of squared errors of perturbations, each predicted from all others by kernel ridge with an intercept."""
    n = len(kernel)
    centre = np.eye(n) - 1 / n
    centred = centre @ kernel @ centre
    hat = np.linalg.solve(centred + alpha * np.eye(n), centred).T + 1 / n
    residuals = (shifts - hat @ shifts) / np.maximum(1 - np.diagonal(hat), 1e-9)[:, None]
    return float((residuals**2).sum())
