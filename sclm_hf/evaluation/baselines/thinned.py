"""A baseline trained on cells that are as shallow as those it will see."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..thinning import thin_counts
from .baseline import Baseline


class TrainedOnThinned(Baseline):
    """A baseline fitted on thinned cells: the fair opponent where the cells to label are shallow.

    Args:
        baseline: what is fitted.
        share, depth, seed: those of [`~thinning.thin_counts`].
    """

    def __init__(
        self, baseline: Baseline, *, share: float | None = None, depth: float | None = None, seed: int = 0
    ) -> None:
        self.baseline = baseline
        self.share = share
        self.depth = depth
        self.seed = seed

    def fit(self, counts: Any, labels: Sequence[str]) -> "TrainedOnThinned":
        self.baseline.fit(thin_counts(counts, share=self.share, depth=self.depth, seed=self.seed), labels)
        self.classes = self.baseline.classes
        return self

    def predict_log_proba(self, counts: Any) -> np.ndarray:
        return self.baseline.predict_log_proba(counts)
