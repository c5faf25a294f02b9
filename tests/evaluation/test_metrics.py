import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from sclm_hf.errors import ConfigurationError
from sclm_hf.evaluation.metrics import Predictions, class_scores, confusion_matrix, difference, estimate


def predictions(right: float, seed: int, n_splits: int = 3, n_test: int = 80) -> list[Predictions]:
    """Random cells and labels (the same for every `right`), of which about a share `right` is predicted."""
    cells = np.random.default_rng(0)
    errors = np.random.default_rng(seed)
    results = []
    for split in range(n_splits):
        tested = np.sort(cells.choice(200, size=n_test, replace=False))
        true = cells.choice(["B", "NK", "T", "rare"], p=[0.5, 0.3, 0.18, 0.02], size=n_test)
        guess = errors.choice(["B", "NK", "T", "never true"], size=n_test)
        results.append(
            Predictions(f"seed {split}", tested, true, np.where(errors.random(n_test) < right, true, guess))
        )
    return results


def test_scores_are_those_of_scikit_learn():
    made = predictions(0.6, seed=1)
    expected = {
        "accuracy": [accuracy_score(one.true, one.predicted) for one in made],
        "macro_f1": [f1_score(one.true, one.predicted, average="macro") for one in made],
    }
    for metric, scores in expected.items():
        result = estimate(made, metric, n_resamples=50)
        assert result.per_split == pytest.approx(scores)
        assert result.mean == pytest.approx(np.mean(scores))


def test_interval_is_seeded_and_of_the_right_width():
    made = predictions(0.7, seed=2, n_splits=1, n_test=200)
    result = estimate(made, "accuracy", seed=5)
    assert result == estimate(made, "accuracy", seed=5)
    assert estimate(made, seed=5) != estimate(made, seed=6)
    standard_error = np.sqrt(result.mean * (1 - result.mean) / 200)
    assert result.high - result.low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)
    assert result.n_cells == 200


def test_paired_difference_is_narrower_than_two_separate_intervals():
    good = predictions(0.6, seed=3)
    worse = [
        Predictions(one.split, one.cells, one.true, np.where(np.arange(80) < 6, "never true", one.predicted))
        for one in good
    ]
    gap = difference(good, worse, "accuracy")
    apart = estimate(good, "accuracy"), estimate(worse, "accuracy")
    assert gap.mean == pytest.approx(apart[0].mean - apart[1].mean)
    assert gap.low > 0 and gap.high - gap.low < (apart[0].high - apart[0].low)


def test_difference_refuses_other_cells():
    with pytest.raises(ConfigurationError, match="same cells of the same splits"):
        difference(predictions(0.9, seed=1), predictions(0.9, seed=1, n_splits=2))


def test_confusion_matrix_adds_the_splits():
    made = predictions(0.6, seed=4)
    names = ["B", "NK", "T", "never true", "rare"]
    matrix = confusion_matrix(made, names)
    assert matrix.sum() == 240 and matrix[3].sum() == 0
    assert matrix[0].sum() == sum((one.true == "B").sum() for one in made)


def test_an_interval_over_splits_draws_splits():
    made = predictions(0.6, seed=1, n_splits=8)
    result = estimate(made, "accuracy", unit="splits")
    assert result.unit == "splits" and result == estimate(made, "accuracy", unit="splits")
    assert result.mean == estimate(made, "accuracy", n_resamples=10).mean
    standard_error = np.std(result.per_split) / np.sqrt(8)
    assert result.high - result.low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)


def test_a_difference_over_splits_is_paired():
    good = predictions(0.6, seed=3, n_splits=8)
    worse = [
        Predictions(one.split, one.cells, one.true, np.where(np.arange(80) < 6, "never true", one.predicted))
        for one in good
    ]
    gap, apart = difference(good, worse, "accuracy", unit="splits"), estimate(good, "accuracy", unit="splits")
    assert gap.low > 0 and gap.high - gap.low < apart.high - apart.low


def test_class_scores_are_those_of_scikit_learn():
    made = predictions(0.6, seed=4)
    true, predicted = (np.concatenate([getattr(one, name) for one in made]) for name in ("true", "predicted"))
    expected = precision_recall_fscore_support(true, predicted, zero_division=0)
    scores = class_scores(made)
    assert [score.label for score in scores] == ["B", "NK", "T", "never true", "rare"]
    for name, values in zip(("precision", "recall", "f1", "n_tested"), expected, strict=True):
        assert [getattr(score, name) for score in scores] == pytest.approx(values.tolist())


def test_bad_input_is_named():
    with pytest.raises(ConfigurationError, match="Unknown `unit` 'donors'"):
        estimate(predictions(0.5, seed=0), unit="donors")
    with pytest.raises(ConfigurationError, match="needs at least two"):
        estimate(predictions(0.5, seed=0, n_splits=1), unit="splits")
    with pytest.raises(ConfigurationError, match="Unknown `metric` 'f1'"):
        estimate(predictions(0.5, seed=0), "f1")
    with pytest.raises(ConfigurationError, match="no predictions"):
        estimate([])
    with pytest.raises(ConfigurationError, match="2 cells, 2 true and 1 predicted"):
        Predictions("seed 0", np.arange(2), np.array(["B", "T"]), np.array(["B"]))
