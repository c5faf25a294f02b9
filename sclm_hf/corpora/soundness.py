"""What every row that a source returns must be before it is encoded, and what kind of values the source holds."""

import numpy as np
from numba import njit
from scipy.sparse import csr_matrix

from ..errors import CorpusError, ExpressionError
from ..tokenization.encodings.cells import Survey
from ..tokenization.expression_matrix import check_kind as refuse_kind
from .sources import CellSource


@njit(cache=True, nogil=True)
def _first_unsound(indptr, indices, n_columns):
    """The first row whose indices do not ascend strictly or leave the columns; -1 when there is none."""
    for i in range(indptr.size - 1):
        row = indices[indptr[i] : indptr[i + 1]]
        ascending = True
        for j in range(1, row.size):
            ascending &= row[j - 1] < row[j]
        if not ascending or (row.size and (row[0] < 0 or row[-1] >= n_columns)):
            return i
    return -1


def first_unsound(matrix: csr_matrix) -> int:
    """The first row whose column indices do not ascend strictly or leave the matrix; -1 when there is none."""
    return int(_first_unsound(matrix.indptr, matrix.indices, matrix.shape[1]))


def check_indices(matrix: csr_matrix, source: CellSource, rows: np.ndarray) -> None:
    """Refuse rows with gene indices out of range, doubled or out of order.

    Args:
        matrix: (rows, genes) what `source.read(rows)` returned.
        source: the source.
        rows: the rows.

    Raises:
        CorpusError: a row is not as it should be; the message names it.
    """
    bad = first_unsound(matrix)
    if bad < 0:
        return
    indices = matrix.indices[matrix.indptr[bad] : matrix.indptr[bad + 1]]
    place = f"`{source.location}`, row {rows[bad]} (counted from 0)"
    if indices.min() < 0 or indices.max() >= source.n_genes:
        raise CorpusError(f"{place}: column indices beyond its {source.n_genes} genes: the file is damaged.")
    if len(np.unique(indices)) < len(indices):
        raise CorpusError(
            f"{place}: a gene has two values. If they belong together, add them up (`adata.X.sum_duplicates()`) and "
            "write the file again."
        )
    raise CorpusError(
        f"{place}: column indices are not in order: sort them (`adata.X.sort_indices()`) and write the file again, or "
        "let `sclm-hf corpus build` do it."
    )


def refuse_empty(source: CellSource, rows: np.ndarray | None) -> None:
    """Refuse cells without any count before a run begins that would end at them.

    Args:
        source: the source.
        rows: (cells,) rows used of it; None = all.

    Raises:
        ExpressionError: there are such cells; the message names the first.
    """
    empty = source.empty_rows()
    if rows is not None:
        empty = np.intersect1d(empty, rows)
    if empty.size:
        raise ExpressionError(
            f"`{source.location}`: {empty.size:,} of its cells have no counts at all, the first in row {empty[0]} "
            "(counted from 0): leave them out, as `scanpy.pp.filter_cells(adata, min_counts=1)` does, and write the "
            "file again."
        )


def check_kind(matrix: csr_matrix, expects: str, source: CellSource) -> None:
    """Refuse a source of normalised values where the encoding expects counts, and the other way round.

    Args:
        matrix: some rows of the source.
        expects: `"counts"`, `"normalized"` or `"any"`.
        source: the source.

    Raises:
        ExpressionError: the values are of the other kind.
    """
    values = matrix.data[np.isfinite(matrix.data) & (matrix.data != 0)]
    totals = [np.array([number]) for number in (0, 0, len(values), (values != np.floor(values)).sum(), 0)]
    refuse_kind(Survey(*totals), expects, f"`{source.location}` (judged by {matrix.shape[0]} of its cells)")


def to_counts(matrix: csr_matrix, source: CellSource, rows: np.ndarray) -> csr_matrix:
    """Whole numbers above 0 in the order of their columns, or a refusal.

    Args:
        matrix: (rows, genes) what `source.read(rows)` returned.
        source: the source.
        rows: the rows.

    Returns:
        (rows, genes) uint32 counts without stored zeros.

    Raises:
        CorpusError: an index is out of range or doubled, or a value is negative, not finite, not whole or beyond 32
            bits; the message names the row.
    """
    if first_unsound(matrix) >= 0:
        if 0 <= matrix.indices.min() <= matrix.indices.max() < source.n_genes:
            matrix = matrix.copy()
            matrix.has_sorted_indices = False
            matrix.sort_indices()
        check_indices(matrix, source, rows)
    values = matrix.data
    largest = np.iinfo(np.uint32).max
    good = np.isfinite(values) & (values >= 0) & (values <= largest)
    good[good] = values[good] == np.floor(values[good])
    if not good.all():
        bad = int(np.flatnonzero(~good)[0])
        row = rows[np.searchsorted(matrix.indptr, bad, "right") - 1]
        raise CorpusError(
            f"`{source.location}`, row {row} (counted from 0): {values[bad]} is no count: shards hold raw counts, so "
            "name the layer that has them (`layer=`), or leave the cell out."
        )
    counts = csr_matrix((values.astype(np.uint32), matrix.indices, matrix.indptr), shape=matrix.shape)
    counts.eliminate_zeros()
    return counts
