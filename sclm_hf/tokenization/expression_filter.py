"""Leaving out genes of few cells and cells of few genes, as published pipelines do before they encode."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from ..errors import ExpressionError
from .expression_matrix import as_csr


@dataclass(frozen=True)
class ExpressionFilter:
    """What a filter keeps.

    Attributes:
        cells: (cells,) bool.
        genes: (genes,) bool.
        min_cells: cells in which a gene must be expressed.
        min_genes: genes that a cell must express.
    """

    cells: np.ndarray
    genes: np.ndarray
    min_cells: int
    min_genes: int

    def summary(self) -> str:
        """One line for people."""
        return (
            f"{np.count_nonzero(~self.genes):,} of {self.genes.size:,} genes left out, expressed in fewer than "
            f"{self.min_cells} cells; then {np.count_nonzero(~self.cells):,} of {self.cells.size:,} cells, with fewer "
            f"than {self.min_genes} such genes"
        )


def published_filter(matrix, *, min_cells: int = 10, min_genes: int = 25) -> ExpressionFilter:
    """What UCE's published pipeline leaves out of a data set (Rosen et al., bioRxiv 2023).

    Genes go first, then cells, which are judged by the genes that are left. Nothing in the package calls this by
    itself; the published embeddings are those of `adata[kept.cells, kept.genes]`.

    Args:
        matrix: (cells, genes), all cells of the data set; sparse or dense.
        min_cells: cells in which a gene must be expressed.
        min_genes: genes that a cell must express.

    Raises:
        ExpressionError: no cell or no gene is left.
    """
    matrix = as_csr(matrix)
    expressed = scipy.sparse.csr_matrix((np.asarray(matrix.data) > 0, matrix.indices, matrix.indptr), matrix.shape)
    genes = np.asarray(expressed.sum(axis=0)).ravel() >= min_cells
    cells = np.asarray(expressed[:, genes].sum(axis=1)).ravel() >= min_genes
    if not genes.any() or not cells.any():
        raise ExpressionError(
            f"No {'cell' if genes.any() else 'gene'} is left of {cells.size:,} cells and {genes.size:,} genes with "
            f"`min_cells={min_cells}` and `min_genes={min_genes}`: ask for less."
        )
    return ExpressionFilter(cells, genes, min_cells, min_genes)
