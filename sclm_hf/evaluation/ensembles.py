"""Classifiers that label cells together: how much each counts is chosen on cells that none of them saw."""

import itertools
from collections.abc import Mapping

import numpy as np

SMALLEST_SHARE = 4
"""Weights are multiples of a half, a third or a quarter of the whole."""

DOUBT = 0.25
"""On PBMCs of three platforms (21 few-shot and full splits) a quarter lost to the better of two regressions on none by
more than 0.01 macro-F1; one standard error lost on 4, which leaves out what helps, and none at all on 1."""

LEAST_TOLD = 0.5
"""A classifier that alone tells less than this share of what the best one tells about the labels has no say. On retina
(five labels a class) encoders of blood, which tell a third, were given one by chance in 6 of 15 draws, at the cost of
0.026 macro-F1 each."""

SCALES = (1.0, 0.5, 1.5, 2.0, 3.0)
"""What the sum of log-probabilities may be multiplied by: classifiers get surer or less sure of the same labels."""


def choose_weights(log_probabilities: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Weights of log-probabilities with which classifiers together give the labels the highest probability.

    The probability of the labels decides, not how many are right, because a few cells tell it apart better. Weights
    that are worse than the best by less than `DOUBT` standard errors are as good; of these the simplest are taken:
    few classifiers, without the last one, of equal weight. Those that tell too little alone (`LEAST_TOLD`) are left
    out before.

    Args:
        log_probabilities: name -> (n_cells, n_labels) of cells that the classifier did not see; the last one is the
            least simple.
        labels: (n_cells,) their true labels, as numbers.

    Returns:
        Name -> weight, those without one left out.
    """
    names = _telling(log_probabilities, labels)
    parts = [log_probabilities[name] for name in names]
    found = {weights: _scaled(_weighed(parts, weights), labels) for weights in _grid(len(parts))}
    best = max((values for values, _ in found.values()), key=np.mean)
    losses = {weights: best - values for weights, (values, _) in found.items()}
    good = [weights for weights, loss in losses.items() if loss.mean() <= DOUBT * loss.std() / np.sqrt(len(labels))]
    chosen = min(good, key=lambda weights: (*simplicity(weights), losses[weights].mean()))
    scale = found[chosen][1]
    return {name: round(scale * weight, 4) for name, weight in zip(names, chosen, strict=True) if weight}


def _telling(log_probabilities: Mapping[str, np.ndarray], labels: np.ndarray) -> list[str]:
    """Names of the classifiers that alone tell enough: by how much they beat calling all labels equally probable."""
    told = {name: _scaled(one, labels)[0].mean() + np.log(one.shape[1]) for name, one in log_probabilities.items()}
    best = max(told.values())
    return [name for name, one in told.items() if best <= 0 or one >= LEAST_TOLD * best]


def simplicity(weights: tuple[float, ...]) -> tuple:
    """What is smaller for simpler weights."""
    used = [weight for weight in weights if weight]
    return len(used), weights[-1] > 0, max(used) - min(used)


def _scaled(summed: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """(n_cells,) log-probabilities of the labels with the best of the scales, and that scale."""
    found = [(_likelihood(scale * summed, labels), scale) for scale in SCALES]
    return max(found, key=lambda one: one[0].mean())


def _grid(n_parts: int) -> list[tuple[float, ...]]:
    """All weights that add up to 1."""
    shares = {
        tuple(count / whole for count in counts)
        for whole in range(1, SMALLEST_SHARE + 1)
        for counts in itertools.product(range(whole + 1), repeat=n_parts)
        if sum(counts) == whole
    }
    return sorted(shares)


def _weighed(parts: list[np.ndarray], weights: tuple[float, ...]) -> np.ndarray:
    return sum(weight * part for weight, part in zip(weights, parts, strict=True) if weight)


def _likelihood(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n_cells,) log-probabilities of the labels."""
    return scores[np.arange(len(labels)), labels] - np.logaddexp.reduce(scores, axis=1)
