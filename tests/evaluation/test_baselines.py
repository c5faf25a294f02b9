import numpy as np
import pytest
import scipy.sparse

from sclm_hf.errors import ConfigurationError, ExpressionError
from sclm_hf.evaluation.baselines import PCALogisticRegression, log1p_cp10k, predict_splits
from sclm_hf.evaluation.metrics import estimate
from sclm_hf.evaluation.splits import stratified_splits


def make_cells(n_cells: int = 90, n_genes: int = 40, seed: int = 0):
    """Counts of three cell types, each with five genes that are raised."""
    generator = np.random.default_rng(seed)
    labels = np.array(["B", "NK", "T"])[np.arange(n_cells) % 3]
    rates = np.full((n_cells, n_genes), 20.0)
    for place, name in enumerate(("B", "NK", "T")):
        rates[labels == name, 5 * place : 5 * place + 5] = 60.0
    return scipy.sparse.csr_matrix(generator.poisson(rates).astype("float32")), labels


def test_baseline_learns_and_repeats_itself():
    counts, labels = make_cells()
    splits = stratified_splits(labels, seeds=range(2))
    first = predict_splits(counts, labels, splits)
    second = predict_splits(counts.toarray(), labels, splits)
    assert estimate(first, "accuracy", n_resamples=10).mean > 0.9
    for one, other in zip(first, second, strict=True):
        assert one.predicted.tolist() == other.predicted.tolist()


def test_baseline_sees_only_training_cells():
    counts, labels = make_cells()
    split = stratified_splits(labels, seeds=(0,))[0]
    changed = counts.toarray()
    changed[split.test] = changed[split.test][:, ::-1] * 50
    model = PCALogisticRegression(n_components=5).fit(counts[split.train], labels[split.train])
    again = PCALogisticRegression(n_components=5).fit(changed[split.train], labels[split.train])
    np.testing.assert_array_equal(model.predict(counts), again.predict(counts))


def test_most_variable_genes_are_kept():
    counts, labels = make_cells(n_cells=300)
    model = PCALogisticRegression(n_genes=15).fit(counts, labels)
    assert model.genes.tolist() == list(range(15))


def test_log1p_cp10k_matches_its_definition():
    counts = np.array([[1, 0, 3], [0, 2, 0]])
    expected = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    np.testing.assert_allclose(log1p_cp10k(counts).toarray(), expected)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[1, -1], [1, 1]], "negative"),
        ([[1, np.nan], [1, 1]], "negative or non-finite"),
        ([[0, 0], [1, 1]], "1 cell without counts"),
    ],
)
def test_bad_counts_are_refused(counts, message):
    with pytest.raises(ExpressionError, match=message):
        log1p_cp10k(np.array(counts))


def test_one_label_is_refused():
    with pytest.raises(ConfigurationError, match="at least two labels"):
        PCALogisticRegression().fit(np.ones((3, 2)), ["B", "B", "B"])
