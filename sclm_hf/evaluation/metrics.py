"""Scores of predicted labels, with intervals that take the cell as the unit of chance.

Several splits of one data set test many cells more than once, so split scores are not independent. The bootstrap here
draws cells: a cell that is drawn brings along its predictions in every split that tested it. Methods compared on the
same splits get the same draws, so their difference has an interval of its own.

The interval covers the choice of cells to test, not the choice of cells, seeds and settings to train with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigurationError, require

METRICS = ("accuracy", "macro_f1")


@dataclass(frozen=True)
class Predictions:
    """What one method said about the test cells of one split.

    Attributes:
        split: name of the split.
        cells: (n_test,) positions of the tested cells in the data set.
        true: (n_test,) their labels.
        predicted: (n_test,) the labels that were predicted.
    """

    split: str
    cells: np.ndarray
    true: np.ndarray
    predicted: np.ndarray

    def __post_init__(self) -> None:
        sizes = {len(self.cells), len(self.true), len(self.predicted)}
        if len(sizes) != 1 or 0 in sizes:
            raise ConfigurationError(
                f"Predictions of `{self.split}` need as many cells as labels, at least one, got {len(self.cells)} "
                f"cells, {len(self.true)} true and {len(self.predicted)} predicted labels."
            )


@dataclass(frozen=True)
class Estimate:
    """A score averaged over splits, and its percentile bootstrap interval.

    Attributes:
        mean: mean of `per_split`.
        low: lower end of the interval.
        high: upper end of the interval.
        per_split: the score of every split, in order.
        n_cells: number of different cells tested.
        level: coverage of the interval, 0.95 by default.
    """

    mean: float
    low: float
    high: float
    per_split: tuple[float, ...]
    n_cells: int
    level: float = 0.95


def confusion_matrix(predictions: Sequence[Predictions], label_names: Sequence[str]) -> np.ndarray:
    """Counts of (true label, predicted label) over all splits.

    Returns:
        (n_labels, n_labels) int64; rows are true labels, columns predicted ones, in the order of `label_names`.
    """
    sklearn_metrics = require("sklearn.metrics", extra="evaluation")
    true = np.concatenate([one.true for one in predictions])
    predicted = np.concatenate([one.predicted for one in predictions])
    return sklearn_metrics.confusion_matrix(true, predicted, labels=list(label_names))


def estimate(
    predictions: Sequence[Predictions],
    metric: str = "macro_f1",
    *,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Mean score over the splits with a bootstrap interval over cells.

    Args:
        predictions: one entry a split.
        metric: `"accuracy"` or `"macro_f1"` (mean F1 over the labels that occur, as true or as predicted ones).
        n_resamples: bootstrap draws.
        level: coverage of the interval.
        seed: seed of the draws.
    """
    scores, draws = _scores(predictions, metric, n_resamples, seed)
    return _estimate(scores, draws, predictions, level)


def difference(
    predictions: Sequence[Predictions],
    reference: Sequence[Predictions],
    metric: str = "macro_f1",
    *,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Score of `predictions` minus score of `reference`, paired by split and by cell.

    Raises:
        ConfigurationError: the two were not tested on the same cells of the same splits.
    """
    same = len(predictions) == len(reference) and all(
        np.array_equal(one.cells, other.cells) and np.array_equal(one.true, other.true)
        for one, other in zip(predictions, reference, strict=False)
    )
    if not same:
        raise ConfigurationError("A paired difference needs both methods tested on the same cells of the same splits.")
    scores, draws = _scores(predictions, metric, n_resamples, seed)
    reference_scores, reference_draws = _scores(reference, metric, n_resamples, seed)
    return _estimate(scores - reference_scores, draws - reference_draws, predictions, level)


def _scores(
    predictions: Sequence[Predictions], metric: str, n_resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(n_splits,) scores, and (n_resamples,) mean scores of bootstrap draws of the cells."""
    if metric not in METRICS:
        raise ConfigurationError(f"Unknown `metric` {metric!r}: expected one of {', '.join(METRICS)}.")
    if not predictions:
        raise ConfigurationError("There are no predictions to score.")
    cells = np.unique(np.concatenate([one.cells for one in predictions]))
    places = [np.searchsorted(cells, one.cells) for one in predictions]
    pairs = [_label_pairs(one) for one in predictions]
    scores = np.array([_score(*pair, np.ones(len(pair[0])), metric) for pair in pairs])
    generator = np.random.default_rng(seed)
    draws = np.empty(n_resamples)
    for draw in range(n_resamples):
        weights = np.bincount(generator.integers(len(cells), size=len(cells)), minlength=len(cells))
        draws[draw] = np.mean([_score(*pair, weights[at], metric) for pair, at in zip(pairs, places, strict=True)])
    return scores, draws


def _label_pairs(predictions: Predictions) -> tuple[np.ndarray, int]:
    """(n_test,) codes `true * n_labels + predicted`, and the number of labels that occur."""
    names, codes = np.unique(np.concatenate([predictions.true, predictions.predicted]), return_inverse=True)
    true, predicted = np.split(codes, 2)
    return true * len(names) + predicted, len(names)


def _score(pairs: np.ndarray, n_labels: int, weights: np.ndarray, metric: str) -> float:
    """The score of cells that count as often as their weights say."""
    return score(np.bincount(pairs, weights=weights, minlength=n_labels**2).reshape(n_labels, n_labels), metric)


def score(confusion: np.ndarray, metric: str) -> float:
    """Accuracy or macro-F1 as scikit-learn defines them.

    scikit-learn would check its input anew for each of the thousands of draws, which takes a hundred times as long.

    Args:
        confusion: (n_labels, n_labels) cells by true and by predicted label.
        metric: `"accuracy"`, or `"macro_f1"`, the mean F1 over the labels that occur.
    """
    hits = np.diagonal(confusion)
    if metric == "accuracy":
        return hits.sum() / max(confusion.sum(), 1)
    occurring = confusion.sum(0) + confusion.sum(1)
    return (2 * hits[occurring > 0] / occurring[occurring > 0]).sum() / max((occurring > 0).sum(), 1)


def _estimate(scores: np.ndarray, draws: np.ndarray, predictions: Sequence[Predictions], level: float) -> Estimate:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(
        mean=float(scores.mean()),
        low=float(low),
        high=float(high),
        per_split=tuple(scores.tolist()),
        n_cells=len(np.unique(np.concatenate([one.cells for one in predictions]))),
        level=level,
    )
