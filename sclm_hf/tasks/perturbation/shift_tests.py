"""Tests whether a perturbation moves cells differently from the others, and says what is compared."""

from typing import Any, NamedTuple

import numpy as np

FEWEST_UNITS = 3
"""Cells, or donors, that a perturbation was run in."""

FEWEST_OTHERS = 10
"""Other perturbations to compare it with."""


class ShiftTests(NamedTuple):
    """Tests of perturbations.

    Attributes:
        n_units: (perturbations,) cells, or donors, that each has a shift of.
        p_values: (perturbations,) NaN where there is too little to test.
        rates: (perturbations,) false discovery rates, NaN as well.
        effects: (perturbations,) rank-biserial correlations: how much more often a shift is above one of another
            perturbation than below it, from -1 to 1; NaN as well.
    """

    n_units: np.ndarray
    p_values: np.ndarray
    rates: np.ndarray
    effects: np.ndarray


def compare_shifts(shifts: np.ndarray, units: np.ndarray | None = None) -> ShiftTests:
    """Compare the shifts of each perturbation with those of all others.

    Two-sided Wilcoxon rank-sum tests by the normal approximation, corrected for ties; a perturbation is no part of
    what it is compared with. False discovery rates (Benjamini and Hochberg) are over the perturbations tested.

    Args:
        shifts: (cells, perturbations) shifts to the goal; NaN = not run.
        units: (cells,) number of each cell's donor, whose mean over its cells then counts once; None = each cell
            counts.

    Returns:
        The tests; NaN where a perturbation has fewer than `FEWEST_UNITS` units or there are fewer than
        `FEWEST_OTHERS` others.
    """
    from scipy.stats import false_discovery_control, norm, rankdata

    shifts = shifts if units is None else _unit_means(shifts, units)
    ran = ~np.isnan(shifts)
    n_units = ran.sum(axis=0)
    ranks = np.zeros(shifts.shape)
    ranks[ran] = rankdata(shifts[ran])
    total, n_others = n_units.sum(), n_units.sum() - n_units
    n_tied = np.unique(shifts[ran], return_counts=True)[1].astype(float)
    tested = (n_units >= FEWEST_UNITS) & ((n_units > 0).sum() - 1 >= FEWEST_OTHERS)
    p_values, effects = np.full((2, len(n_units)), np.nan)
    if tested.any():
        ties = (n_tied**3 - n_tied).sum() / (total * (total - 1))
        deviation = np.sqrt(n_units * n_others / 12 * (total + 1 - ties))[tested]
        above = (ranks.sum(axis=0) - n_units * (total + 1) / 2)[tested]
        distance = np.abs(above)
        effects[tested] = 2 * above / (n_units * n_others)[tested]
        # all values equal: nothing differs
        p_values[tested] = 2 * norm.sf(
            np.divide(distance, deviation, out=np.zeros_like(distance), where=deviation > 0)
        )
    rates = p_values.copy()
    if tested.any():
        rates[tested] = false_discovery_control(p_values[tested], method="bh")
    return ShiftTests(n_units, p_values, rates, effects)


def describe_tests(tests: ShiftTests, donor_key: str | None) -> dict[str, Any]:
    """What a record says of the tests."""
    return {
        "null": "the shifts to the goal are distributed like those of all other perturbations of this result",
        "method": "two-sided Wilcoxon rank sum, normal approximation; false discovery rates by Benjamini and Hochberg",
        "unit": "cell" if donor_key is None else f"mean over the cells of each obs[{donor_key!r}]",
        "needs": f"{FEWEST_UNITS} {'cells' if donor_key is None else 'donors'} that a perturbation was run in, and "
        f"{FEWEST_OTHERS} other perturbations to compare it with",
        "n_tested": int((~np.isnan(tests.p_values)).sum()),
    }


def _unit_means(shifts: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(units, perturbations) means over the cells of each unit; NaN where a perturbation was run in none of them."""
    ran = ~np.isnan(shifts)
    sums, counts = (np.zeros((units.max() + 1, shifts.shape[1])) for _ in range(2))
    np.add.at(sums, units, np.where(ran, shifts, 0))
    np.add.at(counts, units, ran)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
