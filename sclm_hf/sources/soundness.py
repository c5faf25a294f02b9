"""What cells must be before they are encoded, whichever way they come, and how errors name them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from ..errors import CorpusError, ExpressionError, GeneCoverageError, SclmError
from ..tokenization.encodings.cells import OUT_OF_RANGE, Survey
from ..tokenization.encodings.kernels import kernel
from ..tokenization.expression_matrix import refuse_mostly_fractional, refuse_unsound_values, survey_rows
from .cell_source import CellSource


@contextmanager
def source_named(source: CellSource) -> Iterator[None]:
    """Let errors about cells and genes name the source that they are in."""
    try:
        yield
    except (ExpressionError, GeneCoverageError) as error:
        raise type(error)(f"`{source.location}`: {error}") from error


@contextmanager
def cells_named(
    source: CellSource, matrix: csr_matrix, rows: np.ndarray, expects: str, encode: Callable[[np.ndarray], Any]
) -> Iterator[None]:
    """Let an error about cells that are encoded together name the source and the row of the first that causes it.

    Args:
        source: where the cells come from.
        matrix: (rows, genes) what `source.read(rows)` returned.
        rows: their rows.
        expects: what the encoding takes.
        encode: encodes some of them, given their places among these.
    """
    try:
        yield
    except SclmError as error:
        check_rows(matrix, source, rows, expects)
        for place, row in enumerate(rows):
            try:
                encode(np.array([place]))
            except SclmError as cause:
                raise type(cause)(f"`{source.location}`, row {row} (counted from 0): {cause}") from cause
        raise type(error)(f"`{source.location}`: {error}") from error


def check_rows(matrix: csr_matrix, source: CellSource, rows: np.ndarray, expects: str) -> None:
    """Refuse rows that are unsound, or hold mostly fractional values where counts are expected.

    Args:
        matrix: (rows, genes) what `source.read(rows)` returned.
        source: the source.
        rows: the rows.
        expects: `"counts"`, `"normalized"` or `"any"`.

    Raises:
        CorpusError, ExpressionError: as for [`refuse_unsound`], or values are mostly fractional.
    """
    found = survey_rows(matrix, rows)
    refuse_unsound(found, source)
    with source_named(source):
        refuse_mostly_fractional(found, expects, source.data_name, places=source.data_places)


def refuse_unsound(found: Survey, source: CellSource) -> None:
    """Refuse cells that no encoding can take. Entries out of order or doubled are sound: scipy's rules hold for them.

    Args:
        found: what `survey_rows` found in rows of the source.
        source: the source.

    Raises:
        CorpusError: a row has column indices out of range.
        ExpressionError: values are negative or not finite.
    """
    outside = found.rows[(found.problems & OUT_OF_RANGE) > 0]
    if outside.size:
        raise CorpusError(
            f"`{source.location}`, row {outside[0]} (counted from 0): column indices in {source.data_name} beyond its "
            f"{source.n_genes} genes: the data are damaged."
        )
    with source_named(source):
        refuse_unsound_values(found)


@kernel
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
    found = survey_rows(matrix, rows)
    refuse_unsound(found._replace(problems=found.problems & OUT_OF_RANGE), source)
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
