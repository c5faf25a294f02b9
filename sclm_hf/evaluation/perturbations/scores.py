"""How well mean expression after perturbations is predicted, and how far predictions differ from one another."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .screen import Condition, Screen

FEWEST_CELLS = 4
"""Of a condition, to be divided into halves of two."""


class ShiftScores(NamedTuple):
    """Means over the conditions.

    Attributes:
        pearson_delta: correlation over genes of predicted and real shifts; 0 where a prediction has no shift.
        mae: mean absolute error of mean expression.
        discrimination: 1 where each prediction is nearer (L1) to its own condition than to all others, 0.5 by chance.
        spread: how much shifts differ among perturbations, 1 = as much as the real ones (see [`spread`]).
    """

    pearson_delta: float
    mae: float
    discrimination: float
    spread: float


def score_shifts(predicted: np.ndarray, real: np.ndarray) -> ShiftScores:
    """Score predicted shifts.

    Args:
        predicted: (conditions, genes).
        real: the same.
    """
    per = score_each(predicted, real)
    return ShiftScores(
        *(float(np.mean(per[name])) for name in ("pearson_delta", "mae", "discrimination")), spread(predicted, real)
    )


def score_each(predicted: np.ndarray, real: np.ndarray) -> dict[str, np.ndarray]:
    """(conditions,) scores of each condition by name; those of [`ShiftScores`] but the spread."""
    distances = np.stack([np.abs(real - one).sum(axis=1) for one in predicted])
    own = np.diagonal(distances)[:, None]
    others = max(len(real) - 1, 1)
    # of equals half count as nearer
    nearer = (distances < own).sum(axis=1) + ((distances == own).sum(axis=1) - 1) / 2
    return {
        "pearson_delta": np.array([_pearson(*pair) for pair in zip(predicted, real, strict=True)]),
        "mae": np.abs(predicted - real).mean(axis=1),
        "discrimination": 1 - nearer / others if len(real) > 1 else np.full(1, 0.5),
    }


def spread(predicted: np.ndarray, seen: np.ndarray) -> float:
    """Root mean square deviation of predicted shifts from their mean, divided by that of shifts that were measured."""
    own, measured = (np.sqrt(((one - one.mean(axis=0)) ** 2).mean()) for one in (predicted, seen))
    return float(own / measured) if measured > 0 else float("nan")


def ceiling(screen: Screen, conditions: Sequence[Condition], seed: int, n_repeats: int = 5) -> ShiftScores:
    """The scores of one half of the real cells as a prediction of the other half, which has half of their depth.

    Args:
        screen: the cells.
        conditions: those that are predicted, each of at least `FEWEST_CELLS` cells.
        seed: seed of the halves.
        n_repeats: how many times they are drawn.
    """
    generator, repeats = np.random.default_rng(seed), []
    for _ in range(n_repeats):
        groups = []
        for condition in conditions:
            rows = generator.permutation(screen.rows(condition))
            control = generator.permutation(screen.controls(condition.context))
            groups += [part[number::2] for part in (rows, control) for number in (0, 1)]
        of_rows, of_control = screen.means(groups).reshape(len(conditions), 2, 2, -1).swapaxes(0, 1)
        repeats.append(score_shifts(*(of_rows - of_control).swapaxes(0, 1)))
    return ShiftScores(*np.mean(repeats, axis=0).tolist())


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    norms = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / norms) if norms > 0 else 0.0
