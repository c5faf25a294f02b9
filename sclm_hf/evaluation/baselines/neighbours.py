"""The labels of the nearest training cells."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import require
from .baseline import Baseline, checked_labels, log1p_cp10k
from .linear import PCALogisticRegression


class NearestNeighbours(Baseline):
    """Votes of the nearest training cells among principal components, nearer cells with more weight.

    A class gets its share of one vote more that all classes divide, so that no logarithm is infinite.

    Args:
        n_neighbours: cells that vote; all of them where there are fewer.
        scale, n_components, n_genes, seed: those of [`~linear.PCALogisticRegression`]. Distances between z-scores are
            mostly noise: scaling is rarely worth asking for here.
    """

    def __init__(
        self,
        *,
        n_neighbours: int = 5,
        scale: bool = False,
        n_components: int = 50,
        n_genes: int = 2000,
        seed: int = 0,
    ) -> None:
        self.n_neighbours = n_neighbours
        self._components = PCALogisticRegression(scale=scale, n_components=n_components, n_genes=n_genes, seed=seed)

    def fit(self, counts: Any, labels: Sequence[str]) -> "NearestNeighbours":
        neighbors = require("sklearn.neighbors", extra="evaluation")
        expression = log1p_cp10k(counts)
        labels = checked_labels(labels, expression.shape[0])
        cells = self._components.fit_projection(expression)
        self._voters = neighbors.KNeighborsClassifier(min(self.n_neighbours, len(labels)), weights="distance")
        self.classes = self._voters.fit(cells, labels).classes_
        return self

    def predict_log_proba(self, counts: Any) -> np.ndarray:
        n_votes = self._voters.n_neighbors
        votes = self._voters.predict_proba(self._components.project(counts)) * n_votes
        return np.log((votes + 1 / len(self.classes)) / (n_votes + 1))
