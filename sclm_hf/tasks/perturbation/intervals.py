"""Intervals of means over cells, when cells or donors are drawn anew."""

from typing import Any

import numpy as np

from .shift_tests import FEWEST_UNITS

N_RESAMPLES = 1000
LEVEL = 0.95

_MOST_WEIGHTS = 2**26
"""Numbers that are in memory at a time."""


def mean_intervals(
    values: np.ndarray, units: np.ndarray | None = None, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap intervals of the means over cells; all perturbations get the same draws.

    Args:
        values: (cells, perturbations); NaN = not run.
        units: (cells,) number of each cell's donor, which is drawn with all of its cells; None = cells are drawn.
        seed: seed of the draws.

    Returns:
        (perturbations,) lower and upper ends; NaN where a perturbation was run in fewer than 3 cells, or donors.
    """
    ran = ~np.isnan(values)
    numbers = np.arange(len(values)) if units is None else units
    sums, counts = (np.zeros((numbers.max() + 1, values.shape[1])) for _ in range(2))
    np.add.at(sums, numbers, np.where(ran, values, 0))
    np.add.at(counts, numbers, ran)
    ends = np.full((2, values.shape[1]), np.nan)
    enough = (counts > 0).sum(axis=0) >= FEWEST_UNITS
    if enough.any():
        means = _redrawn(sums[:, enough], counts[:, enough], seed)
        ends[:, enough] = np.nanquantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return ends[0], ends[1]


def _redrawn(sums: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """(resamples, perturbations) means of drawn units; NaN where none of them was run."""
    rng, n_units = np.random.default_rng(seed), len(sums)
    shares, means = np.full(n_units, 1 / n_units), []
    step = max(1, _MOST_WEIGHTS // n_units)
    for start in range(0, N_RESAMPLES, step):
        drawn = rng.multinomial(n_units, shares, size=min(step, N_RESAMPLES - start)).astype(float)
        total, number = drawn @ sums, drawn @ counts
        means.append(np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0))
    return np.concatenate(means)


def describe_intervals(donor_key: str | None) -> dict[str, Any]:
    """What a record says of the intervals."""
    drawn = "cells" if donor_key is None else f"the groups of cells of obs[{donor_key!r}]"
    return {
        "method": f"percentile bootstrap of the mean over cells, {N_RESAMPLES:,} draws of {drawn}",
        "level": LEVEL,
        "needs": f"{FEWEST_UNITS} {'cells' if donor_key is None else 'donors'} that a perturbation was run in",
    }
