"""Genes that some data sets do not measure are no genes that their cells do not express."""

import numpy as np
import pytest

from sclm_hf.evaluation.baselines.baseline import log1p_cp10k
from sclm_hf.evaluation.baselines.linear import PCALogisticRegression, ZScoredLogisticRegression
from sclm_hf.evaluation.baselines.measured import Measured, mean_and_variance

from .baseline_cells import make_cells


@pytest.fixture(scope="module")
def cells():
    """Counts of two data sets, the second of which lacks every third gene; labels; and what is measured."""
    counts, labels = make_cells()
    counts = counts.toarray()
    genes = np.ones((2, counts.shape[1]), bool)
    genes[1, ::3] = False
    measured = Measured((np.arange(len(counts)) >= 60).astype(int), genes)
    counts[60:, ::3] = 0
    return counts, labels, measured


def test_statistics_are_of_the_cells_that_measure_a_gene(cells):
    counts, _, measured = cells
    values = log1p_cp10k(counts)
    mean, variance = mean_and_variance(values, measured)
    known = np.where(measured.genes[measured.datasets], values.toarray(), np.nan)
    np.testing.assert_allclose(mean, np.nanmean(known, axis=0))
    np.testing.assert_allclose(variance, np.nanvar(known, axis=0))


def test_a_gene_that_nobody_measures_has_statistics_of_0(cells):
    counts, _, measured = cells
    mean, variance = mean_and_variance(log1p_cp10k(counts[60:]), measured.of(slice(60, None)))
    assert not mean[::3].any() and not variance[::3].any()


@pytest.mark.parametrize("baseline", [ZScoredLogisticRegression, PCALogisticRegression])
def test_an_unmeasured_gene_says_nothing_about_a_cell(baseline, cells):
    counts, labels, measured = cells
    fitted = baseline().fit(counts, labels, measured)
    imputed = fitted.project(counts, measured)[60:]
    fitted.projection[::3] = 0
    np.testing.assert_allclose(fitted.project(counts)[60:], imputed, atol=1e-12)


@pytest.mark.parametrize("baseline", [ZScoredLogisticRegression, PCALogisticRegression])
def test_where_all_is_measured_nothing_changes(baseline, cells):
    counts, labels, measured = cells
    whole = Measured(measured.datasets, np.ones_like(measured.genes))
    expected = baseline().fit(counts, labels).predict_log_proba(counts)
    found = baseline().fit(counts, labels, whole).predict_log_proba(counts, whole)
    np.testing.assert_allclose(found, expected, atol=1e-6)
