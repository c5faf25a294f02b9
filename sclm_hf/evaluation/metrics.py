"""Scores of predicted labels, with intervals over the cells that were tested, or over the splits.

Several splits of one data set test many cells more than once, so split scores are not independent. The bootstrap over
cells draws cells: a cell that is drawn brings along its predictions in every split that tested it. Its interval covers
the choice of cells to test, not the choice of cells, seeds and settings to train with.

The bootstrap over splits draws whole splits, each with the score that it has. Where splits differ in the cells to
train on and in the seeds of training, its interval covers these; with few splits it is too narrow.

Methods compared on the same splits get the same draws, so their difference has an interval of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse

from ..errors import ConfigurationError, require

METRICS = ("accuracy", "macro_f1")

UNITS = ("cells", "splits")
"""What a bootstrap may draw."""

_MOST_WEIGHTS = 4_000_000
"""So many cells times draws are in memory at a time."""


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
        unit: what the bootstrap drew, one of `UNITS`.
    """

    mean: float
    low: float
    high: float
    per_split: tuple[float, ...]
    n_cells: int
    level: float = 0.95
    unit: str = "cells"


class ClassScore(NamedTuple):
    """How well one label was predicted, over all splits.

    Attributes:
        label: the label.
        n_tested: how often a cell of this label was tested; the same cell counts once for each split.
        precision: share of the cells predicted to be of this label that are; 0 where there are none.
        recall: share of the cells of this label that were predicted to be; 0 where there are none.
        f1: harmonic mean of the two.
    """

    label: str
    n_tested: int
    precision: float
    recall: float
    f1: float


def class_scores(predictions: Sequence[Predictions]) -> list[ClassScore]:
    """Scores of every label that occurs, as a true or as a predicted one, sorted by label.

    Args:
        predictions: one entry a split; cells of all splits are counted together.
    """
    if not predictions:
        raise ConfigurationError("There are no predictions to score.")
    names = np.unique(np.concatenate([part for one in predictions for part in (one.true, one.predicted)]))
    matrix = confusion_matrix(predictions, names.tolist())
    scores = []
    for number, name in enumerate(names):
        hits, tested, predicted = matrix[number, number], matrix[number].sum(), matrix[:, number].sum()
        precision, recall = hits / max(predicted, 1), hits / max(tested, 1)
        scores.append(ClassScore(str(name), int(tested), precision, recall, 2 * hits / (tested + predicted)))
    return scores


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
    unit: str = "cells",
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Mean score over the splits with a bootstrap interval.

    Args:
        predictions: one entry a split.
        metric: `"accuracy"` or `"macro_f1"` (mean F1 over the labels that occur, as true or as predicted ones).
        unit: what the bootstrap draws: `"cells"` or `"splits"`, of which there must be two.
        n_resamples: bootstrap draws.
        level: coverage of the interval.
        seed: seed of the draws.
    """
    scores, draws = _scores(predictions, metric, unit, n_resamples, seed)
    return _estimate(scores, draws, predictions, level, unit)


def difference(
    predictions: Sequence[Predictions],
    reference: Sequence[Predictions],
    metric: str = "macro_f1",
    *,
    unit: str = "cells",
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Score of `predictions` minus score of `reference`, paired by split and by cell; arguments are those of
    [`estimate`].

    Raises:
        ConfigurationError: the two were not tested on the same cells of the same splits.
    """
    same = len(predictions) == len(reference) and all(
        np.array_equal(one.cells, other.cells) and np.array_equal(one.true, other.true)
        for one, other in zip(predictions, reference, strict=False)
    )
    if not same:
        raise ConfigurationError("A paired difference needs both methods tested on the same cells of the same splits.")
    scores, draws = _scores(predictions, metric, unit, n_resamples, seed)
    reference_scores, reference_draws = _scores(reference, metric, unit, n_resamples, seed)
    return _estimate(scores - reference_scores, draws - reference_draws, predictions, level, unit)


def _scores(
    predictions: Sequence[Predictions], metric: str, unit: str, n_resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(n_splits,) scores, and (n_resamples,) mean scores of bootstrap draws."""
    if metric not in METRICS:
        raise ConfigurationError(f"Unknown `metric` {metric!r}: expected one of {', '.join(METRICS)}.")
    if unit not in UNITS:
        raise ConfigurationError(f"Unknown `unit` {unit!r}: expected one of {', '.join(UNITS)}.")
    if not predictions:
        raise ConfigurationError("There are no predictions to score.")
    if unit == "splits" and len(predictions) < 2:
        raise ConfigurationError("A bootstrap over splits needs at least two of them: draw cells (`unit='cells'`).")
    cells = np.unique(np.concatenate([one.cells for one in predictions]))
    places = [np.searchsorted(cells, one.cells) for one in predictions]
    pairs = [_label_pairs(one) for one in predictions]
    scores = np.array([_score(*pair, np.ones(len(pair[0])), metric) for pair in pairs])
    generator = np.random.default_rng(seed)
    if unit == "splits":
        return scores, scores[generator.integers(len(scores), size=(n_resamples, len(scores)))].mean(axis=1)
    draws = np.zeros(n_resamples)
    block = max(1, _MOST_WEIGHTS // len(cells))
    for start in range(0, n_resamples, block):
        here = draws[start : start + block]
        weights = np.stack([_drawn(generator, len(cells)) for _ in here])
        for pair, at in zip(pairs, places, strict=True):
            here += _score(*pair, weights[:, at], metric)
    return scores, draws / len(predictions)


def _drawn(generator: np.random.Generator, n_cells: int) -> np.ndarray:
    """(n_cells,) how often each cell is drawn, of as many draws as there are cells."""
    return np.bincount(generator.integers(n_cells, size=n_cells), minlength=n_cells).astype(np.float64)


def _label_pairs(predictions: Predictions) -> tuple[np.ndarray, int]:
    """(n_test,) codes `true * n_labels + predicted`, and the number of labels that occur."""
    names, codes = np.unique(np.concatenate([predictions.true, predictions.predicted]), return_inverse=True)
    true, predicted = np.split(codes, 2)
    return true * len(names) + predicted, len(names)


def _score(pairs: np.ndarray, n_labels: int, weights: np.ndarray, metric: str) -> np.ndarray:
    """The score, or (n_draws,) scores, of cells that count as often as (n_test,) or (n_draws, n_test) weights say."""
    n_test = len(pairs)
    of_pairs = scipy.sparse.csr_matrix((np.ones(n_test), pairs, np.arange(n_test + 1)), (n_test, n_labels**2))
    return score((weights @ of_pairs).reshape(*weights.shape[:-1], n_labels, n_labels), metric)


def score(confusion: np.ndarray, metric: str) -> np.ndarray:
    """Accuracy or macro-F1 as scikit-learn defines them.

    scikit-learn would check its input anew for each of the thousands of draws, which takes a hundred times as long.

    Args:
        confusion: (..., n_labels, n_labels) cells by true and by predicted label.
        metric: `"accuracy"`, or `"macro_f1"`, the mean F1 over the labels that occur.

    Returns:
        (...) scores.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    if metric == "accuracy":
        return hits.sum(axis=-1) / np.maximum(confusion.sum(axis=(-2, -1)), 1)
    occurring = confusion.sum(axis=-2) + confusion.sum(axis=-1)
    return (2 * hits / np.maximum(occurring, 1)).sum(axis=-1) / np.maximum((occurring > 0).sum(axis=-1), 1)


def _estimate(
    scores: np.ndarray, draws: np.ndarray, predictions: Sequence[Predictions], level: float, unit: str
) -> Estimate:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(
        mean=float(scores.mean()),
        low=float(low),
        high=float(high),
        per_split=tuple(scores.tolist()),
        n_cells=len(np.unique(np.concatenate([one.cells for one in predictions]))),
        level=level,
        unit=unit,
    )
