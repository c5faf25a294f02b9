"""Means with bootstrap intervals over cells, for measures that `sclm_hf.evaluation.metrics` does not know."""

from collections.abc import Callable

import numpy as np


def interval(
    measure: Callable[[np.ndarray], float], n_cells: int, *, n_resamples: int = 200, seed: int = 0
) -> dict[str, float]:
    """The measure of all cells, and its 95 % percentile interval over cells that are drawn with repetition."""
    random = np.random.default_rng(seed)
    draws = [measure(random.integers(n_cells, size=n_cells)) for _ in range(n_resamples)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"mean": float(measure(np.arange(n_cells))), "low": float(low), "high": float(high)}
