import numpy as np
import pytest
import scipy.stats

from sclm_hf.tasks.perturbation.shift_tests import compare_shifts


def shifts(n_cells=30, n_perturbations=50):
    return np.random.default_rng(0).normal(size=(n_cells, n_perturbations))


def test_each_perturbation_is_compared_with_all_others_and_not_with_itself():
    values = shifts()
    values[:, 2] += 2
    values[10:, 3] = np.nan
    tests = compare_shifts(values)
    for number in range(50):
        column, others = values[:, number], np.delete(values, number, axis=1)
        expected = scipy.stats.ranksums(column[~np.isnan(column)], others[~np.isnan(others)]).pvalue
        assert tests.p_values[number] == pytest.approx(expected)
    assert np.flatnonzero(tests.rates < 0.05).tolist() == [2]
    np.testing.assert_allclose(tests.rates, scipy.stats.false_discovery_control(tests.p_values))


def test_effect_sizes_say_how_much_more_often_a_shift_is_above_one_of_another_perturbation():
    values = shifts(9, 12).round(1)
    one, others = values[:, 3], np.delete(values, 3, axis=1).ravel()
    expected = np.sign(one[:, None] - others).mean()
    assert compare_shifts(values).effects[3] == pytest.approx(expected)


def test_ties_are_corrected_for():
    values = np.round(shifts(), 1)
    how = {"method": "asymptotic", "use_continuity": False}
    expected = scipy.stats.mannwhitneyu(values[:, 0], values[:, 1:].ravel(), **how).pvalue
    assert compare_shifts(values).p_values[0] == pytest.approx(expected)
    assert (compare_shifts(np.zeros((5, 20))).p_values == 1).all()


def test_too_little_to_compare_gives_no_p_value_and_counts_for_no_rate():
    values = shifts()
    values[2:, :3] = np.nan
    tests = compare_shifts(values)
    assert np.isnan(tests.p_values[:3]).all() and np.isnan(tests.rates[:3]).all()
    np.testing.assert_allclose(tests.rates[3:], scipy.stats.false_discovery_control(tests.p_values[3:]))
    assert np.isnan(compare_shifts(shifts(30, 10)).p_values).all()
    assert not np.isnan(compare_shifts(shifts(3, 11)).p_values).any()


def test_a_donor_counts_once_however_many_cells_it_has():
    values, donors = shifts(), np.arange(30) % 5
    means = np.stack([np.mean(values[donors == donor], axis=0) for donor in range(5)])
    tests = compare_shifts(values, donors)
    assert (tests.n_units == 5).all()
    np.testing.assert_allclose(tests.p_values, compare_shifts(means).p_values)
    np.testing.assert_allclose(compare_shifts(np.repeat(values, 3, 0), np.repeat(donors, 3)).p_values, tests.p_values)


def test_p_values_of_equal_perturbations_are_uniform():
    p_values = compare_shifts(np.random.default_rng(3).normal(size=(20, 4000))).p_values
    for level in (0.01, 0.05, 0.5):
        # three standard deviations of a share of 4,000
        assert (p_values < level).mean() == pytest.approx(level, abs=3 * np.sqrt(level * (1 - level) / 4000))
