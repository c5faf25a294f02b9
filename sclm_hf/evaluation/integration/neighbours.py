"""What the nearest cells in an embedding tell of batches and cell types: fast enough to be watched in training."""

from typing import NamedTuple

import numpy as np

N_NEIGHBOURS = 10
"""Nearest cells that are looked at; all others where a group has fewer."""

BIOLOGY_WEIGHT = 0.6
"""What cell types count in a score of both, as in scIB (Luecken et al., Nature Methods 19, 41-50 (2022))."""


class Nearby(NamedTuple):
    """What the nearest cells of one group of cells are.

    Attributes:
        found: (cells, neighbours) bool, which of them are what is looked for.
        chance: share of them that would be by chance, at which the share counts as 1.
    """

    found: np.ndarray
    chance: float = 1.0


def mean_share(groups: list[Nearby]) -> float:
    """Mean over groups of the share that is found, each at most 1; NaN without groups."""
    shares = [min(1.0, one.found.mean() / one.chance) for one in groups]
    return float(np.mean(shares)) if shares else float("nan")


def standard_error(groups: list[Nearby]) -> float:
    """Standard error of [`mean_share`] over cells, as if these were drawn group by group; NaN without groups."""
    variances = [
        (one.found.mean(axis=1) / one.chance).var() / max(1, len(one.found) - 1) for one in groups if len(one.found)
    ]
    return float(np.sqrt(np.sum(variances)) / len(variances)) if variances else float("nan")


def label_purity(
    embedding: np.ndarray, labels: np.ndarray, within: np.ndarray | None = None, n_neighbours: int = N_NEIGHBOURS
) -> float:
    """Share of the nearest cells that have the label of a cell, mean over the labels; NaN where nothing can be told.

    Args:
        embedding: (n_cells, size).
        labels: (n_cells,) numbers of labels; cells of -1 are left out.
        within: (n_cells,) groups, such as batches; only cells of the same group are looked at, and a label counts
            once for each group. Groups of one label are left out.
        n_neighbours: nearest cells, by Euclidean distance.
    """
    return mean_share(labels_nearby(embedding, labels, within, n_neighbours))


def labels_nearby(
    embedding: np.ndarray, labels: np.ndarray, within: np.ndarray | None = None, n_neighbours: int = N_NEIGHBOURS
) -> list[Nearby]:
    """For each label, which of the nearest cells have it: what [`label_purity`] is the mean of."""
    within = np.zeros(len(labels), int) if within is None else within
    groups = []
    for group in np.unique(within):
        cells = np.flatnonzero((within == group) & (labels >= 0))
        names = labels[cells]
        if len(np.unique(names)) < 2:
            continue
        alike = names[nearest(embedding[cells], n_neighbours)] == names[:, None]
        groups += [Nearby(alike[names == name]) for name in np.unique(names) if (names == name).sum() > 1]
    return groups


def batch_mixing(
    embedding: np.ndarray, batches: np.ndarray, labels: np.ndarray | None = None, n_neighbours: int = N_NEIGHBOURS
) -> float:
    """How many of the nearest cells are of other batches, 1 = as many as there would be by chance.

    The mean over batches, and with labels over the batches of each label, whose cells are then compared with one
    another alone; each is at most 1. NaN where no label has cells of two batches.

    Args:
        embedding: (n_cells, size).
        batches: (n_cells,) numbers of batches.
        labels: (n_cells,) numbers of labels; cells of -1 are left out. None = all cells are compared.
        n_neighbours: nearest cells, by Euclidean distance.
    """
    return mean_share(batches_nearby(embedding, batches, labels, n_neighbours))


def batches_nearby(
    embedding: np.ndarray, batches: np.ndarray, labels: np.ndarray | None = None, n_neighbours: int = N_NEIGHBOURS
) -> list[Nearby]:
    """For each batch of each label, which of the nearest cells are of others: what [`batch_mixing`] is the mean of."""
    labels = np.zeros(len(batches), int) if labels is None else labels
    groups = []
    for label in np.unique(labels[labels >= 0]):
        cells = np.flatnonzero(labels == label)
        names = batches[cells]
        if len(np.unique(names)) < 2:
            continue
        other = names[nearest(embedding[cells], n_neighbours)] != names[:, None]
        for name in np.unique(names):
            groups.append(Nearby(other[names == name], (names != name).sum() / (len(names) - 1)))
    return groups


def nearest(embedding: np.ndarray, n_neighbours: int) -> np.ndarray:
    """(n_cells, neighbours) numbers of the nearest other cells, or of all others where there are fewer."""
    vectors = np.asarray(embedding, np.float64)
    squares = np.square(vectors).sum(axis=1)
    found, n_neighbours = [], min(n_neighbours, len(vectors) - 1)
    for first in range(0, len(vectors), _AT_ONCE):
        rows = slice(first, first + _AT_ONCE)
        distances = squares[rows, None] + squares - 2 * vectors[rows] @ vectors.T
        distances[np.arange(len(distances)), np.arange(len(distances)) + first] = np.inf
        # a stable sort: of equal distances the lower number
        found.append(np.argsort(distances, axis=1, kind="stable")[:, :n_neighbours])
    return np.concatenate(found)


_AT_ONCE = 512
