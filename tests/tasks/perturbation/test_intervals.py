"""Intervals of means over cells."""

import numpy as np
import pytest
import scipy.stats

from sclm_hf.tasks.perturbation.intervals import mean_intervals

VALUES = np.random.default_rng(0).normal(size=(80, 3))


def test_intervals_are_those_of_a_bootstrap_of_the_mean():
    low, high = mean_intervals(VALUES)
    for number in range(3):
        expected = scipy.stats.bootstrap((VALUES[:, number],), np.mean, method="percentile", rng=1)
        assert (low[number], high[number]) == pytest.approx(expected.confidence_interval, abs=0.03)
    np.testing.assert_array_equal(low, mean_intervals(VALUES)[0])
    assert not np.array_equal(low, mean_intervals(VALUES, seed=1)[0])


def test_cells_that_were_not_run_do_not_count_and_too_few_have_no_interval():
    values = VALUES.copy()
    values[40:, 0], values[2:, 1] = np.nan, np.nan
    low, high = mean_intervals(values)
    assert low[0] < values[:40, 0].mean() < high[0] and np.isnan([low[1], high[1]]).all()


def test_donors_are_drawn_with_all_of_their_cells():
    donors, effects = np.arange(80) % 4, np.array([-3, -1, 1, 3])
    values = VALUES + effects[donors][:, None]
    widths = [high - low for low, high in (mean_intervals(values), mean_intervals(values, donors))]
    assert (widths[1] > 2 * widths[0]).all()
    # a donor that is there twice tells no more than once
    twice = mean_intervals(np.repeat(values, 2, axis=0), np.repeat(donors, 2))
    np.testing.assert_allclose(twice, mean_intervals(values, donors))


def test_memory_changes_nothing(monkeypatch):
    whole = mean_intervals(VALUES)
    monkeypatch.setattr("sclm_hf.tasks.perturbation.intervals._MOST_WEIGHTS", 80 * 100)
    np.testing.assert_allclose(whole, mean_intervals(VALUES))
