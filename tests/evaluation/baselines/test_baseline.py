import numpy as np
import pytest

from sclm_hf.errors import ConfigurationError, ExpressionError
from sclm_hf.evaluation.baselines.baseline import log1p_cp10k, predict_splits
from sclm_hf.evaluation.baselines.linear import (
    PCALogisticRegression,
    ScaledPCALogisticRegression,
    ZScoredLogisticRegression,
)
from sclm_hf.evaluation.baselines.neighbours import NearestNeighbours
from sclm_hf.evaluation.baselines.thinned import TrainedOnThinned
from sclm_hf.evaluation.metrics import estimate
from sclm_hf.evaluation.splits import stratified_splits
from sclm_hf.evaluation.thinning import thin_counts

from .baseline_cells import make_cells

BASELINES = {
    "pca": PCALogisticRegression(),
    "scaled pca": ScaledPCALogisticRegression(),
    "zscored": ZScoredLogisticRegression(),
    "neighbours": NearestNeighbours(),
    "thinned": TrainedOnThinned(ZScoredLogisticRegression(), share=0.5),
}


@pytest.fixture(params=BASELINES)
def baseline(request):
    return BASELINES[request.param]


def test_every_baseline_learns_and_repeats_itself(baseline):
    counts, labels = make_cells()
    splits = stratified_splits(labels, seeds=range(2))
    first = predict_splits(baseline, counts, labels, splits)
    second = predict_splits(baseline, counts.toarray(), labels, splits)
    assert estimate(first, "accuracy", n_resamples=10).mean > 0.9
    for one, other in zip(first, second, strict=True):
        assert one.predicted.tolist() == other.predicted.tolist()


def test_every_baseline_gives_probabilities_of_its_classes(baseline):
    counts, labels = make_cells()
    log_probabilities = baseline.fit(counts, labels).predict_log_proba(counts[:7])
    assert log_probabilities.shape == (7, 3) and np.isfinite(log_probabilities).all()
    np.testing.assert_allclose(np.exp(log_probabilities).sum(axis=1), 1)
    assert baseline.classes.tolist() == ["B", "NK", "T"]
    assert baseline.predict(counts[:7]).tolist() == baseline.classes[log_probabilities.argmax(axis=1)].tolist()


def test_every_baseline_sees_only_training_cells(baseline):
    counts, labels = make_cells()
    split = stratified_splits(labels, seeds=(0,))[0]
    changed = counts.toarray()
    changed[split.test] = changed[split.test][:, ::-1] * 50
    expected = baseline.fit(counts[split.train], labels[split.train]).predict_log_proba(counts)
    again = baseline.fit(changed[split.train], labels[split.train]).predict_log_proba(counts)
    np.testing.assert_array_equal(expected, again)


def test_every_baseline_takes_two_classes(baseline):
    counts, labels = make_cells()
    pair = labels != "NK"
    assert (baseline.fit(counts[pair], labels[pair]).predict(counts[pair]) == labels[pair]).mean() > 0.9


def test_bad_labels_are_refused(baseline):
    with pytest.raises(ConfigurationError, match="at least two labels"):
        baseline.fit(np.ones((3, 2)), ["B", "B", "B"])
    with pytest.raises(ConfigurationError, match="one label per cell: 3 cells, 2 labels"):
        baseline.fit(np.ones((3, 2)), ["B", "T"])


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


def test_test_cells_may_be_thinned():
    counts, labels = make_cells()
    splits = stratified_splits(labels, seeds=(0,))
    thinned = thin_counts(counts, share=0.1)
    found = predict_splits(PCALogisticRegression(), counts, labels, splits, test_counts=thinned)
    expected = PCALogisticRegression().fit(counts[splits[0].train], labels[splits[0].train]).predict(thinned)
    assert found[0].predicted.tolist() == expected[splits[0].test].tolist()
