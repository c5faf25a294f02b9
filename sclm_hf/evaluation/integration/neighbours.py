"""What the nearest cells in an embedding tell of batches and cell types: fast enough to be watched in training."""

import numpy as np

N_NEIGHBOURS = 10
"""Nearest cells that are looked at; all others where a group has fewer."""

BIOLOGY_WEIGHT = 0.6
"""What cell types count in a score of both, as in scIB (Luecken et al., Nature Methods 19, 41-50 (2022))."""


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
    within = np.zeros(len(labels), int) if within is None else within
    shares = []
    for group in np.unique(within):
        cells = np.flatnonzero((within == group) & (labels >= 0))
        names = labels[cells]
        if len(np.unique(names)) < 2:
            continue
        alike = names[nearest(embedding[cells], n_neighbours)] == names[:, None]
        shares += [alike[names == name].mean() for name in np.unique(names) if (names == name).sum() > 1]
    return float(np.mean(shares)) if shares else float("nan")


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
    labels = np.zeros(len(batches), int) if labels is None else labels
    shares = []
    for label in np.unique(labels[labels >= 0]):
        cells = np.flatnonzero(labels == label)
        names = batches[cells]
        if len(np.unique(names)) < 2:
            continue
        other = names[nearest(embedding[cells], n_neighbours)] != names[:, None]
        for name in np.unique(names):
            chance = (names != name).sum() / (len(names) - 1)
            shares.append(min(1.0, other[names == name].mean() / chance))
    return float(np.mean(shares)) if shares else float("nan")


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
