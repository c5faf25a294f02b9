"""The most typical cells of a group, which stand for it where a model reads only a few cells."""

import numpy as np
import scipy.sparse

from ..sources.cell_source import CellSource
from ..sources.survey import row_blocks


def typical_cells(source: CellSource, rows: np.ndarray, n_cells: int) -> np.ndarray:
    """The cells closest to the mean of their group, by the cosine of log-normalised counts.

    Args:
        source: the cells, with counts.
        rows: ascending rows of the group.
        n_cells: how many are wanted.

    Returns:
        At most `n_cells` rows, the most typical first; of equally typical ones the first.
    """
    blocks = [rows[block] for block in row_blocks(len(rows))]
    mean = sum(_log_normalised(source, block).sum(axis=0) for block in blocks)
    direction = np.asarray(mean, np.float64).ravel() / max(np.linalg.norm(mean), 1e-12)
    cosines = np.concatenate([_cosines(_log_normalised(source, block), direction) for block in blocks])
    return rows[np.argsort(-cosines, kind="stable")[:n_cells]]


def _log_normalised(source: CellSource, rows: np.ndarray) -> scipy.sparse.csr_matrix:
    """log1p of counts per 10,000."""
    counts = source.read(rows).astype(np.float64)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    return (scipy.sparse.diags(1e4 / np.maximum(totals, 1e-12)) @ counts).log1p().tocsr()


def _cosines(cells: scipy.sparse.csr_matrix, direction: np.ndarray) -> np.ndarray:
    lengths = scipy.sparse.linalg.norm(cells, axis=1)
    return (cells @ direction) / np.maximum(lengths, 1e-12)
