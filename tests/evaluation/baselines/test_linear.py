import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sclm_hf.errors import ConfigurationError, ExpressionError
from sclm_hf.evaluation.baselines import linear
from sclm_hf.evaluation.baselines.baseline import log1p_cp10k
from sclm_hf.evaluation.baselines.linear import (
    PCALogisticRegression,
    ZScoredLogisticRegression,
    logistic_regression,
    principal_axes,
)

from .baseline_cells import make_cells


@pytest.mark.parametrize("n_cells", [30, 90])
def test_zscored_is_scalers_and_regression_of_scikit_learn(n_cells):
    counts, labels = make_cells(n_cells)
    expression = log1p_cp10k(counts).toarray()
    scaler = StandardScaler().fit(expression)
    scaler.scale_ = np.maximum(scaler.scale_, 0.1)
    values = np.clip(scaler.transform(expression), -10, 10)
    expected = LogisticRegression(tol=1e-10, max_iter=10_000).fit(values, labels).predict_log_proba(values)
    fitted = ZScoredLogisticRegression().fit(counts, labels)
    np.testing.assert_allclose(fitted.predict_log_proba(counts), expected, atol=1e-3)


@pytest.mark.parametrize("scale", [True, False])
def test_pca_is_that_of_scikit_learn(scale):
    counts, labels = make_cells()
    expression = log1p_cp10k(counts).toarray()
    values = expression - expression.mean(axis=0)
    if scale:
        values = np.clip(values / np.maximum(values.std(axis=0), 0.1), -10, 10)
    expected = PCA(5, svd_solver="full").fit_transform(values)
    fitted = PCALogisticRegression(scale=scale, n_components=5).fit(counts, labels)
    for one, other in zip(fitted.project(counts).T, expected.T, strict=True):
        assert abs(pearsonr(one, other).statistic) > 1 - 1e-9


def test_a_rotation_of_the_cells_gives_the_weights_of_the_genes():
    generator = np.random.default_rng(0)
    values, labels = generator.normal(size=(20, 50)), np.arange(20) % 3
    classes, weights, biases = logistic_regression(values, labels, 1.0)
    expected = LogisticRegression(tol=1e-10, max_iter=10_000).fit(values, labels)
    np.testing.assert_allclose(weights, expected.coef_.T, atol=1e-4)
    np.testing.assert_allclose(biases, expected.intercept_, atol=1e-4)
    assert classes.tolist() == [0, 1, 2]


def test_cells_that_are_all_the_same_have_no_principal_components():
    for values in (np.ones((9, 4)), np.eye(9)[:1], np.eye(9)[:, :1]):
        with pytest.raises(ExpressionError, match="no principal components"):
            principal_axes(values, 3, 0)


def test_most_variable_genes_are_kept():
    counts, labels = make_cells(n_cells=300)
    assert PCALogisticRegression(n_genes=15).fit(counts, labels).genes.tolist() == list(range(15))


def test_genes_that_nobody_expresses_have_no_weight():
    counts, labels = make_cells()
    counts = counts.toarray()
    counts[:, 20] = 0
    assert not ZScoredLogisticRegression().fit(counts, labels).projection[20].any()


def test_more_cells_than_memory_are_refused_with_a_number(monkeypatch):
    counts, labels = make_cells()
    monkeypatch.setattr(linear, "MOST_BYTES", 50 * 40 * 8)
    with pytest.raises(ConfigurationError, match=r"90 cells and 40 genes .* fit on 50 cells or fewer"):
        ZScoredLogisticRegression().fit(counts, labels)
