"""Cells of a predicted mean: control cells, changed as little as gives it."""

import numpy as np

MOST_SCALED = 1.5
"""Values are multiplied by this at most."""

HIGHEST = 14.0
"""Values stay below it as far as the mean allows; cell-eval takes log-normalised ones below 15."""


def shift_cells(controls: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Control cells whose mean over cells becomes `means`.

    Where a gene goes down its values are scaled down; where it goes up they are scaled up, by `MOST_SCALED` at most
    and not above `HIGHEST`, and what is missing is added to all cells. So genes that a cell does not express mostly
    stay so.

    Args:
        controls: (cells, genes) log-normalised expression.
        means: (genes,) what the mean is to be; below 0 it becomes 0, as no expression is negative.

    Returns:
        (cells, genes) float32.
    """
    own, wanted = controls.mean(axis=0, dtype=np.float64), np.maximum(means, 0.0)
    factors = np.divide(wanted, own, out=np.ones_like(own), where=own > 0)
    room = np.maximum(controls.max(axis=0) - own, 1e-12)
    factors = np.minimum(factors, np.clip((HIGHEST - wanted) / room, 0, MOST_SCALED))
    return (controls * factors + np.maximum(wanted - own * factors, 0)).astype(np.float32)


def draw_controls(rows: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Ascending numbers of the control cells that are changed: the same ones for every perturbation."""
    if number >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).permutation(rows)[:number])
