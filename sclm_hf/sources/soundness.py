"""What every row that a source returns must be before it is encoded, and what kind of values the source holds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba import njit
from scipy.sparse import csr_matrix

from ..errors import CorpusError, ExpressionError, SclmError
from ..tokenization.encodings.cells import Survey
from ..tokenization.expression_matrix import check_kind as refuse_kind
from .cell_source import CellSource


@contextmanager
def cells_named(source: CellSource, rows: np.ndarray, encode: Callable[[np.ndarray], Any]) -> Iterator[None]:
    """Tell an error of cells that are encoded together with the file and row of the first cell that causes it.

    Args:
        source: where the cells come from.
        rows: (cells,) their rows.
        encode: encodes some of them, given their places among these.
    """
    try:
        yield
    except SclmError as error:
        for place, row in enumerate(rows):
            try:
                encode(np.array([place]))
            except SclmError as found:
                raise type(found)(f"{place_of(source, row)}: {found}") from found
        raise type(error)(f"`{source.location}`: {error}") from error


def place_of(source: CellSource, row: int) -> str:
    """File and row of a cell, for messages."""
    return f"`{source.location}`, row {row} (counted from 0)"


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


@njit(cache=True, nogil=True)
def _first_outside(indptr, indices, n_columns):
    """The first row with an index that leaves the columns; -1 when there is none."""
    for i in range(indptr.size - 1):
        outside = False
        for j in range(indptr[i], indptr[i + 1]):
            outside |= indices[j] < 0 or indices[j] >= n_columns
        if outside:
            return i
    return -1


def check_indices(matrix: csr_matrix, source: CellSource, rows: np.ndarray) -> None:
    """Refuse rows with gene indices out of range. Those out of order or doubled are read as scipy reads them.

    Args:
        matrix: (rows, genes) what `source.read(rows)` returned.
        source: the source.
        rows: the rows.

    Raises:
        CorpusError: a row is not as it should be; the message names it.
    """
    bad = _first_outside(matrix.indptr, matrix.indices, matrix.shape[1])
    if bad >= 0:
        raise CorpusError(
            f"`{source.location}`, row {rows[bad]} (counted from 0): column indices in {source.data_name} beyond its "
            f"{source.n_genes} genes: the file is damaged."
        )


@njit(cache=True, nogil=True)
def _first_fractional(indptr, data):
    """The first row most of whose values are fractional; -1 when there is none."""
    for i in range(indptr.size - 1):
        n_values, n_fractional = 0, 0
        for value in data[indptr[i] : indptr[i + 1]]:
            n_values += value != 0
            # what is no number is refused with its own words
            n_fractional += value != np.floor(value) and value == value
        if 2 * n_fractional > n_values:
            return i
    return -1


def check_counts(matrix: csr_matrix, expects: str, source: CellSource, rows: np.ndarray) -> None:
    """Refuse a row of fractional values where counts are expected: what [`check_kind`] saw was but a sample.

    Args:
        matrix: (rows, genes) what `source.read(rows)` returned.
        expects: `"counts"`, `"normalized"` or `"any"`.
        source: the source.
        rows: the rows.

    Raises:
        ExpressionError: most of the values of a row are fractional; the message names it.
    """
    if expects != "counts" or matrix.dtype.kind != "f":
        return
    bad = _first_fractional(matrix.indptr, matrix.data)
    if bad >= 0:
        raise ExpressionError(
            f"`{source.location}`, row {rows[bad]} (counted from 0): its values in {source.data_name} are mostly "
            "fractional, where the encoding expects counts: leave the cell out, or name with `layer` (`--layer`) "
            "where raw counts are."
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
    within = f" of `{source.location}` (judged by {matrix.shape[0]} of its cells)"
    refuse_kind(Survey(*totals), expects, source.data_name, within)


def to_counts(matrix: csr_matrix, source: CellSource, rows: np.ndarray) -> csr_matrix:
    """Whole numbers above 0 in the order of their columns, doubled ones added up, or a refusal.

    Args:
        matrix: (rows, genes) what `source.read(rows)` returned.
        source: the source.
        rows: the rows.

    Returns:
        (rows, genes) uint32 counts without stored zeros.

    Raises:
        CorpusError: an index is out of range, or a value is negative, not finite, not whole or beyond 32
            bits; the message names the row.
    """
    check_indices(matrix, source, rows)
    if first_unsound(matrix) >= 0:
        # doubled counts may be too large for their type when they are added up
        matrix = csr_matrix((matrix.data.astype(np.float64), matrix.indices, matrix.indptr), shape=matrix.shape)
        matrix.sum_duplicates()
    values = matrix.data
    largest = np.iinfo(np.uint32).max
    good = np.isfinite(values) & (values >= 0) & (values <= largest)
    good[good] = values[good] == np.floor(values[good])
    if not good.all():
        bad = int(np.flatnonzero(~good)[0])
        row = rows[np.searchsorted(matrix.indptr, bad, "right") - 1]
        raise CorpusError(
            f"`{source.location}`, row {row} (counted from 0): {values[bad]} in {source.data_name} is no count: "
            "shards hold raw counts, so name the layer that has them (`layer=`, `--layer`), or leave the cell out."
        )
    counts = csr_matrix((values.astype(np.uint32), matrix.indices, matrix.indptr), shape=matrix.shape)
    counts.eliminate_zeros()
    return counts
