"""Which genes were measured in which cells, where these come from data sets with different genes."""

from typing import NamedTuple

import numpy as np
import scipy.sparse

from ...errors import require


class Measured(NamedTuple):
    """The measured genes of each cell.

    Attributes:
        datasets: (n_cells,) number of the data set of each cell.
        genes: (n_datasets, n_genes) bool, which genes each data set measures.
    """

    datasets: np.ndarray
    genes: np.ndarray

    def of(self, cells: np.ndarray | slice) -> "Measured":
        """Those of some of the cells."""
        return Measured(self.datasets[cells], self.genes)

    def and_of(self, other: "Measured") -> "Measured":
        """Those of these cells, then those of other cells with the same genes."""
        datasets = np.concatenate([self.datasets, len(self.genes) + other.datasets])
        return Measured(datasets, np.concatenate([self.genes, other.genes]))

    def leave_out(self, values: np.ndarray, genes: np.ndarray) -> None:
        """Set (n_cells, genes) values of some genes, given by their numbers, to 0 where they are not measured."""
        for dataset in np.unique(self.datasets):
            lacking = np.flatnonzero(~self.genes[dataset, genes])
            if len(lacking):
                values[np.ix_(self.datasets == dataset, lacking)] = 0


def measured_in(counts: scipy.sparse.csr_matrix, measured: Measured | None) -> Measured:
    """The measured genes of the cells of (n_cells, n_genes) `counts`; None = all of them in all cells."""
    n_cells, n_genes = counts.shape
    return Measured(np.zeros(n_cells, int), np.ones((1, n_genes), bool)) if measured is None else measured


def mean_and_variance(
    expression: scipy.sparse.csr_matrix, measured: Measured | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(n_genes,) means and variances (of the population), each over the cells in which the gene is measured.

    A gene that no cell measures has 0 for both.

    Args:
        expression: (n_cells, n_genes) values, 0 where a gene is not measured.
        measured: which genes are; None = all of them in all cells.
    """
    moments_of = require("sklearn.utils.sparsefuncs", extra="evaluation").mean_variance_axis
    if measured is None:
        return moments_of(expression, axis=0)
    datasets = np.unique(measured.datasets)
    rows = [np.flatnonzero(measured.datasets == dataset) for dataset in datasets]
    means, variances = np.swapaxes([moments_of(expression[some], axis=0) for some in rows], 0, 1)
    n_cells = measured.genes[datasets] * np.array([[len(some)] for some in rows])
    shares = n_cells / np.maximum(n_cells.sum(axis=0), 1)
    mean = (shares * means).sum(axis=0)
    return mean, (shares * (variances + (means - mean) ** 2)).sum(axis=0)
