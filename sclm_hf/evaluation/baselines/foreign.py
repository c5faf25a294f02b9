"""A baseline that has the labels of other data sets too, as a model that was pre-trained on labels has."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp

from .baseline import Baseline


class WithForeignLabels(Baseline):
    """The fair opponent of a model that was pre-trained on labels: a baseline with the same foreign labels.

    Which of the labels that the foreign cells name a cell has, their baseline says; all else is left to the one that
    is fitted on the few labels of the data set itself.

    Args:
        own: what is fitted on the cells given to `fit`.
        foreign: a baseline that was fitted on cells of other data sets, with the same genes.
    """

    def __init__(self, own: Baseline, foreign: Baseline) -> None:
        self.own, self.foreign = own, foreign

    def fit(self, counts: Any, labels: Sequence[str]) -> "WithForeignLabels":
        self.classes = self.own.fit(counts, labels).classes
        return self

    def predict_log_proba(self, counts: Any) -> np.ndarray:
        found = self.own.predict_log_proba(counts)
        _, ours, theirs = np.intersect1d(self.classes, self.foreign.classes, return_indices=True)
        if len(ours):
            among = self.foreign.predict_log_proba(counts)[:, theirs]
            any_of_them = logsumexp(found[:, ours], axis=1, keepdims=True)
            found[:, ours] = among - logsumexp(among, axis=1, keepdims=True) + any_of_them
        return found
