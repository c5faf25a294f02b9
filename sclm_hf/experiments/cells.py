"""The cells of an experiment."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..evaluation.baselines.baseline import log1p_cp10k
from ..evaluation.baselines.measured import mean_and_variance
from ..tasks.files.h5ad import read_h5ad, write_h5ad
from .experiment import Piece

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from pandas import Index

LABEL, BATCH = "cell_type", "batch"

FEWEST = 8
"""Cells of a label that is kept, among those drawn."""


def read_cells(piece: Piece, name: str, choose: "Callable[[AnnData], AnnData] | None" = None) -> "AnnData":
    """Some cells of a data set, the same for all seeds, without those of rare labels.

    Args:
        piece: says how many.
        name: name of the file.
        choose: which of its cells and genes to draw from; by default from all.
    """
    cells, n_cells = read_h5ad(piece.data / f"{name}.h5ad"), piece.size.n_cells
    cells = cells if choose is None else choose(cells)
    if cells.n_obs > n_cells:
        cells = cells[np.sort(np.random.default_rng(0).choice(cells.n_obs, n_cells, replace=False))]
    if LABEL in cells.obs:
        counts = cells.obs[LABEL].value_counts()
        cells = cells[cells.obs[LABEL].isin(counts.index[counts >= FEWEST])]
    return with_counts(cells)


def with_counts(cells: "AnnData") -> "AnnData":
    """Those that express a gene."""
    return cells[np.asarray(cells.X.sum(axis=1)).ravel() > 0].copy()


def of_variable_genes(cells: "AnnData", n_genes: int) -> "AnnData":
    """The cells with the genes whose log-normalised counts vary most, without labels."""
    _, variances = mean_and_variance(log1p_cp10k(cells.X))
    return with_counts(cells[:, np.sort(np.argsort(-variances, kind="stable")[:n_genes])])


def of_genes(cells: "AnnData", genes: "Index") -> "AnnData":
    """The cells with those of some genes that they have."""
    return with_counts(cells[:, cells.var_names.isin(genes)])


def labels_of(cells: "AnnData") -> np.ndarray:
    """(n_cells,) the label of each."""
    return cells.obs[LABEL].to_numpy(str)


def written(cells: "AnnData", piece: Piece, name: str) -> "Path":
    """A file of these cells, for training."""
    path = piece.scratch / f"{name}.h5ad"
    write_h5ad(cells.copy(), path)
    return path
