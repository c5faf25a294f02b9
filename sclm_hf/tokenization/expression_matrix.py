"""Expression data in whatever form they come: found in an AnnData, brought to CSR, checked or refused."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from ..errors import ExpressionError
from .encodings.cells import (
    NEGATIVE,
    NOT_FINITE,
    OUT_OF_RANGE,
    UNSORTED,
    CellGenes,
    Cells,
    Columns,
    Survey,
    columns_of,
    survey,
    take_genes,
    taken_entries,
)
from .encodings.scratch import Scratch
from .genes.gene_columns import gene_names

FRACTIONAL_SHARE = 0.01
"""Data with a larger share of fractional values are no counts; data with at most this share are nothing else."""


def select_counts(
    adata, layer: str | None = None, *, expects: str = "counts"
) -> tuple[Any, Sequence[str], Sequence[str] | None, str]:
    """Find the data of an AnnData, in the one order that holds everywhere.

    Counts: the layer asked for; else `layers["counts"]`; else `raw`; else `X`. Normalised data: the layer asked for;
    else `X`. What is found is not replaced by something further down when it turns out not to be counts: then it is
    refused, and `layer` says where else to look.

    Names and Ensembl ids are found in `var_names` and the columns of `var` as [`gene_names`] says.

    Args:
        adata: an AnnData, or what looks like one.
        layer: name of a layer, or `"X"` or `"raw"`.
        expects: what the encoding expects: `"counts"`, `"normalized"` or `"any"`.

    Returns:
        The matrix, the names of its columns, their Ensembl ids or None, and where the matrix was found.

    Raises:
        ExpressionError: there is no such layer.
    """
    raw = getattr(adata, "raw", None)
    if layer is None and expects != "normalized":
        layer = "counts" if "counts" in adata.layers else "raw" if raw is not None else "X"
    if layer in adata.layers:
        matrix, var, names, source = adata.layers[layer], adata.var, adata.var_names, f'layers["{layer}"]'
    elif layer in (None, "X"):
        matrix, var, names, source = adata.X, adata.var, adata.var_names, "X"
    elif layer == "raw" and raw is not None:
        matrix, var, names, source = raw.X, raw.var, raw.var_names, "raw"
    else:
        raise ExpressionError(f"The AnnData has no layer `{layer}`: expected one of {', '.join(data_places(adata))}.")
    if matrix is None:
        raise ExpressionError(f"`{source}` of the AnnData is empty: say with `layer` where the data are.")
    return matrix, *gene_names(var, names), source


def data_places(adata) -> tuple[str, ...]:
    """Where an AnnData, or what looks like one, has data, as `layer` names it."""
    raw = ["raw"] if getattr(adata, "raw", None) is not None else []
    return (*map(str, adata.layers), "X", *raw)


def as_csr(matrix):
    """A matrix as something with CSR arrays: left as it is where it has them, converted otherwise.

    Args:
        matrix: CSR, any other scipy sparse format, a dense (cells, genes) array, one dense (genes,) row, or an object
            that brings one of these into memory by `to_memory()`.

    Raises:
        ExpressionError: it is none of these.
    """
    if hasattr(matrix, "to_memory"):
        matrix = matrix.to_memory()
    if hasattr(matrix, "indptr") and getattr(matrix, "format", "csr") == "csr":
        return matrix
    if scipy.sparse.issparse(matrix):
        return matrix.tocsr()
    try:
        dense = np.asarray(matrix)
    except (TypeError, ValueError, RuntimeError) as error:
        # ragged lists, and tensors of torch that numpy cannot read, each with an error of its own
        raise ExpressionError(
            f"Expected a (cells, genes) matrix of numbers or one row of it, got a {type(matrix).__name__} that numpy "
            f"cannot read ({error})."
        ) from error
    if dense.dtype.kind not in "biuf" or dense.ndim not in (1, 2):
        raise ExpressionError(
            f"Expected a (cells, genes) matrix of numbers or one row of it, got {type(matrix).__name__} with "
            f"shape {dense.shape} and type {dense.dtype}."
        )
    return scipy.sparse.csr_matrix(_kernel_type(np.atleast_2d(dense)))


def read_cells(matrix, columns: Columns, rows=None, uniforms=None) -> tuple[Cells, Survey]:
    """Rows of a matrix in the form that kernels read, sound in everything but the kind of their values.

    Args:
        matrix: as for [`as_csr`].
        columns: the columns of the matrix, from [`columns_of`].
        rows: rows to take, in this order; None for all.
        uniforms: as for `CellProcessor.encode`; only checked here.

    Returns:
        The cells, in column order and without doubled entries (added up where there were some), and their survey.

    Raises:
        ExpressionError: lengths do not match, an index is out of range, or values are negative or not finite.
    """
    cells, numbers = _cells_of(matrix, columns, rows, uniforms)
    found = survey(cells)
    if _unsorted(found, numbers, uniforms):
        cells = _canonical(cells)
        found = survey(cells)
    return cells, found._replace(rows=numbers)


def survey_rows(matrix, numbers: np.ndarray) -> Survey:
    """What [`read_cells`] finds in all rows of a matrix, without refusing any: see [`refuse_unsound_values`].

    Args:
        matrix: as for [`as_csr`].
        numbers: (rows,) what the rows are called in messages.
    """
    cells, _ = _cells_of(matrix, columns_of(np.full(matrix.shape[1], -1, np.int32)), None, None)
    found = survey(cells)
    if (found.problems & UNSORTED).any() and not (found.problems & OUT_OF_RANGE).any():
        found = survey(_canonical(cells))._replace(problems=found.problems & ~UNSORTED)
    return found._replace(rows=numbers)


def refuse_unsound_values(found: Survey) -> None:
    """Refuse cells with values that no encoding can take.

    Raises:
        ExpressionError: values are negative or not finite.
    """
    _refuse_values(found.problems, found.rows)


def read_genes(
    matrix,
    columns: Columns,
    rows=None,
    uniforms=None,
    scratch: Scratch | None = None,
    *,
    as_columns: bool = False,
) -> tuple[CellGenes, Survey, np.ndarray | None]:
    """The known genes of rows of a matrix, sound in everything but the kind of their values, as encodings take them.

    Arguments and errors are those of [`read_cells`]; for `scratch` see [`take_genes`]. Genes are in the order of their
    ids; with `as_columns`, and with `uniforms`, which belong to entries of the matrix, in that of their columns. Also
    returns those of the `uniforms` that belong to these genes.
    """
    cells, numbers = _cells_of(matrix, columns, rows, uniforms)
    known = columns.known
    if as_columns or uniforms is not None:
        if columns.doubled:
            raise ExpressionError(
                "Recorded draws are for one column a gene, but several columns mean one: add them up."
            )
        known = columns.tokens[columns.tokens >= 0]
        cells = cells._replace(sort=False)
    genes, found = take_genes(cells, scratch, known)
    if _unsorted(found, numbers, uniforms):
        genes, found = take_genes(_canonical(cells), scratch, known)
    if uniforms is not None:
        uniforms = np.asarray(uniforms)[taken_entries(cells)]
    return genes, found._replace(rows=numbers), uniforms


def check_kind(
    found: Survey, expects: str, source: str = "the matrix", within: str = "", places: Sequence[str] | None = None
) -> None:
    """Refuse fractional values where counts are expected, and counts where normalised data are.

    Cells most of whose values are fractional are no counts either, however few they are among the others.

    Args:
        found: survey of the cells.
        expects: `"counts"`, `"normalized"` or `"any"`.
        source: where the data were found, as [`select_counts`] says it.
        within: what to add to that, for the message.
        places: where there are data at all, as [`data_places`] says it; None = unknown.

    Raises:
        ExpressionError: the data are of the other kind.
    """
    n_values = int(found.values.sum())
    share = int(found.fractional.sum()) / max(n_values, 1)
    if expects == "counts" and share > FRACTIONAL_SHARE:
        raise ExpressionError(
            f"The encoding expects counts, but {share:.0%} of the values in {source}{within} are fractional: "
            f"{_counts_elsewhere(source, places)}."
        )
    refuse_mostly_fractional(found, expects, source, within, places)
    if expects == "normalized" and n_values and share <= FRACTIONAL_SHARE:
        raise ExpressionError(
            f"The encoding expects normalised data, but {source}{within} holds whole numbers ({share:.1%} "
            "fractional): normalise first (`scanpy.pp.normalize_total`, then `scanpy.pp.log1p`), or name another "
            "`layer` (`--layer`)."
        )


def refuse_mostly_fractional(
    found: Survey, expects: str, source: str = "the matrix", within: str = "", places: Sequence[str] | None = None
) -> None:
    """Refuse cells most of whose values are fractional where counts are expected; arguments as for [`check_kind`]."""
    if expects == "counts":
        what = f"mostly fractional values in {source}{within}, where the encoding expects counts"
        refuse_rows(2 * found.fractional > found.values, found.rows, what, f"{_counts_elsewhere(source, places)}.")


def _counts_elsewhere(source: str, places: Sequence[str] | None) -> str:
    """Where counts may be, if not where the data were found."""
    names = ("counts", "raw", "X") if places is None else places
    others = [f'"{name}"' for name in names if source not in (name, f'layers["{name}"]')]
    if others:
        more = ", …" if places is None else ""
        remedy = f"name with `layer` (`--layer`) where raw counts are ({', '.join(others)}{more})"
    else:
        remedy = "there are no other data in it: take the file from before normalisation"
    return (
        f"{remedy}; if you know better, set `expects` to "
        '"any", in the `processor_config.json` of the model or, in Python, of the feature extractor'
    )


def refuse_rows(bad: np.ndarray, rows: np.ndarray, what: str, remedy: str) -> None:
    """Raise an `ExpressionError` that counts and lists the `rows` where `bad` is true."""
    numbers = rows[np.flatnonzero(bad)]
    if numbers.size:
        first = ", ".join(map(str, numbers[:5])) + (", …" if numbers.size > 5 else "")
        raise ExpressionError(f"{numbers.size:,} of {rows.size:,} cells have {what} (rows {first}): {remedy}")


def match_length(what: str, given, expected: int, each: str) -> None:
    """Raise an `ExpressionError` unless there are as many of `given` as rows or columns."""
    if len(given) != expected:
        raise ExpressionError(f"There are {len(given):,} {what}, but {expected:,} {each}s: expected one a {each}.")


def _cells_of(matrix, columns: Columns, rows, uniforms) -> tuple[Cells, np.ndarray]:
    """Rows of a matrix, and their numbers in it, with bounds and lengths checked."""
    matrix = as_csr(matrix)
    match_length("gene ids", columns.tokens, matrix.shape[1], "column")
    cells = Cells(*_csr_arrays(matrix), _row_numbers(rows, matrix.shape[0]), columns.tokens, not columns.ascending)
    numbers = cells.rows
    _check_bounds(cells)
    if uniforms is not None:
        _check_uniforms(uniforms, cells.data.size)
    elif rows is not None and _kernel_type(cells.data[:0]).dtype != cells.data.dtype:
        cells = _taken(cells)
    return cells._replace(data=_kernel_type(cells.data)), numbers


def _refuse_values(problems: np.ndarray, numbers: np.ndarray) -> None:
    refuse_rows(problems & NOT_FINITE, numbers, "NaN or infinite values", "all values must be finite.")
    refuse_rows(problems & NEGATIVE, numbers, "negative values", "give counts or log-normalised data, nothing scaled.")


def _unsorted(found: Survey, numbers: np.ndarray, uniforms) -> bool:
    """Whether rows must be put in order first; refuses those that no order mends."""
    refuse_rows(found.problems & OUT_OF_RANGE, numbers, "column indices out of range", "the matrix is damaged.")
    _refuse_values(found.problems, numbers)
    unsorted = bool((found.problems & UNSORTED).any())
    if unsorted and uniforms is not None:
        raise ExpressionError("`uniforms` need sorted, distinct column indices: call `sum_duplicates()` first.")
    return unsorted


def _kernel_type(array: np.ndarray) -> np.ndarray:
    """Numbers in one of the few types for which kernels are compiled; exact below 2**53."""
    if array.dtype.kind not in "biuf":
        raise ExpressionError(f"Expression values are numbers, got {array.dtype}.")
    if array.dtype in (np.float32, np.float64, np.int32, np.int64):
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    wide = array.dtype.itemsize > (4 if array.dtype.kind == "f" else 2)
    return array.astype(np.float64 if wide else np.float32, copy=False)


def _csr_arrays(matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    indptr, indices, data = (np.ascontiguousarray(part) for part in (matrix.indptr, matrix.indices, matrix.data))
    flat = all(part.ndim == 1 for part in (indptr, indices, data))
    if not flat or indptr.dtype.kind not in "iu" or indices.dtype.kind not in "iu":
        raise ExpressionError("`indptr`, `indices` and `data` of the matrix must be flat, the first two of integers.")
    match_length("row bounds (`indptr`, less one)", indptr[1:], matrix.shape[0], "row")
    match_length("column indices", indices, data.size, "stored value")
    return indptr.astype(np.int64, copy=False), indices, data


def _check_bounds(cells: Cells) -> None:
    starts, stops = cells.indptr[cells.rows], cells.indptr[cells.rows + 1]
    bad = (starts < 0) | (starts > stops) | (stops > cells.data.size)
    refuse_rows(bad, cells.rows, "bounds (`indptr`) outside the stored values", "the matrix is damaged.")


def _row_numbers(rows, n_rows: int) -> np.ndarray:
    if rows is None:
        return np.arange(n_rows, dtype=np.int64)
    rows = np.asarray(rows)
    if rows.ndim != 1 or (rows.dtype.kind not in "iu" and rows.size):
        raise ExpressionError(f"`rows` are row numbers, got {rows.dtype} with shape {rows.shape}.")
    outside = rows[(rows < 0) | (rows >= n_rows)]
    if outside.size:
        raise ExpressionError(f"`rows` holds {outside[0]}: expected 0…{n_rows - 1}, the matrix has {n_rows:,} rows.")
    return rows.astype(np.int64)


def _check_uniforms(uniforms, n_values: int) -> None:
    match_length("uniforms", uniforms, n_values, "stored value")
    uniforms = np.asarray(uniforms)
    if not ((uniforms >= 0) & (uniforms < 1)).all():
        raise ExpressionError("`uniforms` must lie in [0, 1).")


def _taken(cells: Cells) -> Cells:
    """The same cells on a copy of their rows alone."""
    sizes = np.diff(cells.indptr)[cells.rows].astype(np.int64)
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    entries = np.repeat(cells.indptr[cells.rows] - indptr[:-1], sizes) + np.arange(indptr[-1])
    rows = np.arange(cells.rows.size, dtype=np.int64)
    return cells._replace(indptr=indptr, indices=cells.indices[entries], data=cells.data[entries], rows=rows)


def _canonical(cells: Cells) -> Cells:
    """The same cells on a copy of their rows in column order, doubled entries added up."""
    cells = _taken(cells)
    shape = (cells.rows.size, cells.tokens.size)
    matrix = scipy.sparse.csr_matrix((cells.data, cells.indices, cells.indptr), shape=shape)
    matrix.sum_duplicates()
    return cells._replace(indptr=matrix.indptr, indices=matrix.indices, data=matrix.data)
