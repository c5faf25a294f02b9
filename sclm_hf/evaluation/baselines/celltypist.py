"""CellTypist, trained anew on the cells given (Domínguez Conde et al., Science 2022, 10.1126/science.abl5197)."""

import logging
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from scipy.special import log_expit, logsumexp

from ...errors import require
from .baseline import Baseline, checked_labels, log1p_cp10k


class CellTypist(Baseline):
    """CellTypist's own training and prediction, by stochastic gradient descent, of one class against all others.

    Its wheel is an optional dependency (`pip install celltypist`). Its other solver, a plain logistic regression, asks
    scikit-learn for an option that no longer exists; [`~linear.ZScoredLogisticRegression`] stands in for it.

    Args:
        seed: seed of the order in which cells are seen.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, counts: Any, labels: Sequence[str]) -> "CellTypist":
        expression = log1p_cp10k(counts)
        self._model = _celltypist().train(
            expression,
            labels=checked_labels(labels, expression.shape[0]),
            genes=np.arange(expression.shape[1]),
            check_expression=False,
            use_SGD=True,
            random_state=self.seed,
        )
        self.classes = self._model.cell_types.astype(str)
        return self

    def predict_log_proba(self, counts: Any) -> np.ndarray:
        scaler, classifier = self._model.scaler, self._model.classifier
        values = log1p_cp10k(counts)[:, classifier.features].toarray()
        values = np.minimum((values - scaler.mean_) / scaler.scale_, 10)
        scores = self._model.predict_labels_and_prob(values)[0]
        # its probabilities are those of each class against all others
        log_probabilities = log_expit(scores)
        return log_probabilities - logsumexp(log_probabilities, axis=1, keepdims=True)


def _celltypist() -> ModuleType:
    """The package, without the handler of log messages that importing it gives to the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        module = require("celltypist", extra="demo")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    module.logger.set_level(logging.WARNING)
    return module
