"""Deletion and insertion: whether the genes that score high are those that a class hangs on.

Petsiuk, Das and Saenko, "RISE", BMVC 2018, arXiv:1806.07421. Differently, a gene leaves the cell instead of being made
grey, and at least one stays.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from ..perturbation.intervals import mean_intervals
from .reading import ClassCell, ClassReader

FRACTIONS = np.linspace(0, 1, 11)
"""Of the genes that can be deleted, those that are."""

RANDOM = "random"


class Curves(NamedTuple):
    """Probabilities of the class of each cell while genes are deleted, or put in.

    Attributes:
        deletion: (cells, fractions) with the genes that score highest deleted.
        insertion: (cells, fractions) with all others deleted.
    """

    deletion: np.ndarray
    insertion: np.ndarray


def curves(reader: ClassReader, cells: Sequence[ClassCell], scores: Sequence[np.ndarray]) -> Curves:
    """Delete and insert the genes of cells, those that score highest first.

    Args:
        reader: runs the cells.
        cells: the cells.
        scores: (genes,) of each; equal ones go by their place in the cell.
    """
    edited = [one for cell, values in zip(cells, scores, strict=True) for one in _edited(cell, values)]
    odds = reader.log_odds(edited).astype(float).reshape(len(cells), 2, len(FRACTIONS))
    found = expit(odds)
    return Curves(found[:, 0], found[:, 1])


def _edited(cell: ClassCell, scores: np.ndarray) -> list[ClassCell]:
    """The cell at each fraction of deletion, and of insertion."""
    order = cell.genes[np.argsort(-scores, kind="stable")]
    # where all genes are scored, the last one stays
    n_least = int(len(order) == cell.n_genes)
    counts = np.rint(FRACTIONS * (len(order) - n_least)).astype(int)
    deleted = [cell.without(order[:count]) for count in counts]
    return deleted + [cell.without(order[n_least + count :]) for count in counts]


def curve_records(by_order: dict[str, Curves], seed: int) -> list[dict[str, Any]]:
    """One record per order of the genes; see [`explain`].

    Args:
        by_order: name of the order -> its curves, in the same cells; `"random"` among them.
        seed: seed of the intervals.
    """
    random = by_order[RANDOM]
    records = []
    for name, found in by_order.items():
        values = {
            "deletion": _area(found.deletion),
            "insertion": _area(found.insertion),
            "deletion_gain": _area(random.deletion) - _area(found.deletion),
            "insertion_gain": _area(found.insertion) - _area(random.insertion),
        }
        low, high = mean_intervals(np.stack(list(values.values()), axis=1), seed=seed)
        record: dict[str, Any] = {"method": name, "n_cells": len(found.deletion)}
        for place, (what, areas) in enumerate(values.items()):
            record |= {what: float(areas.mean()), f"{what}_low": float(low[place]), f"{what}_high": float(high[place])}
        record |= {f"{what}_curve": getattr(found, what).mean(axis=0).tolist() for what in Curves._fields}
        records.append(record)
    return records


def _area(curve: np.ndarray) -> np.ndarray:
    """(cells,) areas under (cells, fractions) curves."""
    return np.trapezoid(curve, FRACTIONS, axis=1)
