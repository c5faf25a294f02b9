"""Matrices that lie on disk, as those of backed AnnData do: rows are read when they are asked for."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse

from ..tokenization.expression_matrix import as_csr

BLOCK_SIZE = 1024
"""Cells that are read at once."""


def open_rows(matrix: Any) -> Any:
    """A matrix whose rows can be read quickly: left on disk where it lies there by rows, else CSR in memory."""
    return matrix if _by_rows_on_disk(matrix) else as_csr(matrix)


def read_rows(matrix: Any, rows: np.ndarray) -> Any:
    """What holds `rows` of a matrix.

    Args:
        matrix: what `open_rows` returns.
        rows: row numbers, in any order.

    Returns:
        `matrix` itself where it is in memory; else a CSR matrix of the same shape in which all other rows are empty,
        so that row numbers, in messages too, stay those of the whole.
    """
    if not _by_rows_on_disk(matrix):
        return matrix
    rows = np.unique(rows)
    adjacent = rows.size and rows[-1] - rows[0] + 1 == rows.size
    part = as_csr(matrix[rows[0] : rows[-1] + 1] if adjacent else matrix[rows, :])
    indptr = np.zeros(matrix.shape[0] + 1, np.int64)
    indptr[rows + 1] = np.diff(part.indptr)
    return scipy.sparse.csr_matrix((part.data, part.indices, np.cumsum(indptr)), shape=matrix.shape)


def blocks(matrix: Any) -> Iterator[tuple[Any, np.ndarray | None]]:
    """All rows, in order: what holds them, as `read_rows` gives it, and which these are; None for all at once."""
    if not _by_rows_on_disk(matrix):
        yield matrix, None
        return
    for start in range(0, matrix.shape[0], BLOCK_SIZE):
        rows = np.arange(start, min(start + BLOCK_SIZE, matrix.shape[0]))
        yield read_rows(matrix, rows), rows


def _by_rows_on_disk(matrix: Any) -> bool:
    """Whether this is AnnData's view of a stored CSR matrix, or a dense (cells, genes) array of h5py or zarr."""
    if hasattr(matrix, "to_memory"):
        return getattr(matrix, "format", None) == "csr"
    return type(matrix).__module__.partition(".")[0] in ("h5py", "zarr") and len(matrix.shape) == 2
