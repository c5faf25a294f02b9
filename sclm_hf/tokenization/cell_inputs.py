"""What a processor may be given as cells: an AnnData, a data frame, a matrix, a row, or rows of our shards."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from ..errors import ExpressionError
from .encodings.keys import as_cell_ids, hash_names
from .expression_matrix import as_csr, match_length, select_counts

GeneTables = dict[str | None, tuple[Sequence[str], Sequence[str] | None]]
"""Data set -> names and Ensembl ids of its genes; None = whatever the data set."""


SHARD_COLUMNS = ("dataset", "cell_id", "gene_index", "counts")


class CellGroup(NamedTuple):
    """Cells with the same columns.

    Attributes:
        matrix: (cells, genes) CSR.
        gene_names: (genes,) names of the columns.
        ensembl_ids: (genes,) their Ensembl ids, or None.
        cell_ids: (cells,) what random draws are keyed by.
        places: (cells,) where the cells stand in what was given.
        source: where the data come from, for messages.
    """

    matrix: csr_matrix
    gene_names: Sequence[str]
    ensembl_ids: Sequence[str] | None
    cell_ids: Any
    places: np.ndarray
    source: str


def are_shard_rows(cells: Any) -> bool:
    """Whether these are rows of our shards, as `datasets` hands them to a function.

    Raises:
        ExpressionError: they are, and lack a column, or are in another form.
    """
    if not isinstance(cells, Mapping):
        _refuse_other_forms(cells)
        return False
    if not {"gene_index", "counts"} & set(cells):
        return False
    if missing := [f"`{name}`" for name in SHARD_COLUMNS if name not in cells]:
        raise ExpressionError(
            f"Rows of shards need the columns {', '.join(SHARD_COLUMNS)}; these lack {' and '.join(missing)}: do not "
            "take columns away before the processor has read them."
        )
    return True


def _refuse_other_forms(cells: Any) -> None:
    columns = getattr(cells, "column_names", getattr(cells, "columns", None))
    if columns is not None and {"gene_index", "counts"} <= set(map(str, columns)):
        raise ExpressionError(
            f"Rows of shards are read as plain columns, got a {type(cells).__name__}: leave out `with_format`, or "
            "give a slice of the data set, such as `rows[:64]`."
        )


def refuse_settings_of_matrices(settings: Mapping[str, Any]) -> None:
    """Refuse what rows of shards bring themselves.

    Raises:
        ExpressionError: one of the settings is given.
    """
    if given := [f"`{name}`" for name, value in settings.items() if value is not None]:
        raise ExpressionError(f"Rows of shards bring their own data and ids: leave out {' and '.join(given)}.")


def read_group(
    cells: Any,
    *,
    gene_names: Sequence[str] | None,
    ensembl_ids: Sequence[str] | None,
    layer: str | None,
    cell_ids: Any,
    expects: str,
) -> CellGroup:
    """Cells of an AnnData, a data frame, a matrix or a row.

    Arguments are those of `CellProcessor.__call__`.

    Raises:
        ExpressionError: there are no cells, the columns have no names, or the data frame holds more than numbers.
    """
    source = "the matrix"
    if hasattr(cells, "var_names"):
        cell_ids = hash_names(cells.obs_names) if cell_ids is None else cell_ids
        cells, names, ids, source = select_counts(cells, layer, expects=expects)
        if gene_names is None:
            gene_names, ensembl_ids = names, ids if ensembl_ids is None else ensembl_ids
    elif layer is not None:
        raise ExpressionError(f"A matrix has no layers: leave out `layer={layer!r}`, or give an AnnData.")
    elif hasattr(cells, "columns") and hasattr(cells, "index"):
        source = "the data frame"
        cell_ids = hash_names(list(map(str, cells.index))) if cell_ids is None else cell_ids
        gene_names = list(map(str, cells.columns)) if gene_names is None else gene_names
        cells = _numbers(cells)
    if gene_names is None:
        raise ExpressionError("The columns of a matrix have no names: give `gene_names`, one for each column.")
    matrix = as_csr(cells)
    match_length("gene names", gene_names, matrix.shape[1], "column")
    if matrix.shape[0] == 0:
        raise ExpressionError("There are no cells to encode: the data have 0 rows.")
    places = np.arange(matrix.shape[0])
    return CellGroup(matrix, gene_names, ensembl_ids, places if cell_ids is None else cell_ids, places, source)


def read_shard_rows(rows: Mapping[str, Any], tables: GeneTables) -> list[CellGroup]:
    """Rows of our shards, a group for each data set.

    Args:
        rows: columns `gene_index` and `counts` (lists of lists), `cell_id` and `dataset`.
        tables: the genes of the data sets, see [`read_gene_tables`].

    Raises:
        ExpressionError: there are no rows, a data set has no gene table, or a row does not fit it.
    """
    names = np.asarray(rows["dataset"], dtype=object)
    if not names.size:
        raise ExpressionError("There are no cells to encode: the data have 0 rows.")
    for column in SHARD_COLUMNS:
        match_length(f"entries of `{column}`", rows[column], names.size, "cell")
    cell_ids = as_cell_ids(rows["cell_id"])
    groups = []
    for name in dict.fromkeys(names.tolist()):
        if name not in tables and None not in tables:
            raise ExpressionError(
                f"`gene_names` has no genes of the data set `{name}`, only of {', '.join(map(str, tables))}."
            )
        genes, ensembl_ids = tables.get(name) or tables[None]
        places = np.flatnonzero(names == name)
        matrix = _matrix(rows, places, len(genes), name)
        groups.append(CellGroup(matrix, genes, ensembl_ids, cell_ids[places], places, f"the data set `{name}`"))
    return groups


def read_gene_tables(gene_names: Any) -> GeneTables:
    """The genes of data sets, from what a caller gives as `gene_names` for rows of shards.

    Args:
        gene_names: the table `genes` of the shards (`load_dataset(folder, "genes", split="train")`, or a data frame
            of it), a mapping from data set to the names of its genes, or the names, where all data sets share them.

    Raises:
        ExpressionError: it is none of these, or the table is not in the order of its `gene_index`.
    """
    if gene_names is None:
        raise ExpressionError(
            "Rows of shards number their genes: give `gene_names`, the table of the shards' genes "
            '(`datasets.load_dataset(folder, "genes", split="train")`).'
        )
    columns = getattr(gene_names, "column_names", None) or getattr(gene_names, "columns", None)
    if columns is None and isinstance(gene_names, Mapping):
        return {str(name): (list(genes), None) for name, genes in gene_names.items()}
    if columns is None:
        return {None: (list(gene_names), None)}
    if missing := [name for name in ("dataset", "gene_index", "gene_name") if name not in columns]:
        raise ExpressionError(f"`gene_names` is a table without the column `{missing[0]}`; it has {list(columns)}.")
    if not hasattr(gene_names, "__len__"):
        raise ExpressionError("`gene_names` is a table that is streamed: load it without `streaming=True`.")
    return _tables(gene_names, has_ids="ensembl_id" in columns)


def _tables(table: Any, *, has_ids: bool) -> GeneTables:
    datasets, numbers, names = (np.asarray(table[name][:]) for name in ("dataset", "gene_index", "gene_name"))
    ids = np.asarray(table["ensembl_id"][:], dtype=object) if has_ids else None
    found: GeneTables = {}
    for name in dict.fromkeys(datasets.tolist()):
        own = np.flatnonzero(datasets == name)
        if not np.array_equal(numbers[own], np.arange(own.size)):
            raise ExpressionError(f"The genes of `{name}` are not numbered from 0 in order: give the table as it was.")
        known = None if ids is None or any(one is None for one in ids[own]) else ids[own].tolist()
        found[str(name)] = (names[own].tolist(), known)
    return found


def _matrix(rows: Mapping[str, Any], places: np.ndarray, n_genes: int, name: str) -> csr_matrix:
    indices, counts = ([np.asarray(rows[column][place]) for place in places] for column in ("gene_index", "counts"))
    lengths = np.array([one.size for one in indices])
    if any(one.size != length for one, length in zip(counts, lengths, strict=True)):
        raise ExpressionError(f"`gene_index` and `counts` of a row of `{name}` differ in length.")
    flat = np.concatenate(indices).astype(np.int64)
    if flat.size and not 0 <= flat.min() <= flat.max() < n_genes:
        raise ExpressionError(f"A row of `{name}` has a gene beyond the {n_genes:,} genes of its table.")
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return csr_matrix((np.concatenate(counts).astype(np.float64), flat, indptr), shape=(len(places), n_genes))


def _numbers(frame: Any) -> Any:
    """The matrix of a data frame of numbers."""
    kinds = [str(kind) for kind in frame.dtypes]
    letters = [getattr(getattr(kind, "subtype", kind), "kind", "O") for kind in frame.dtypes]
    columns = zip(frame.columns, kinds, letters, strict=True)
    if others := [f"`{name}` ({kind})" for name, kind, letter in columns if letter not in "iufb"]:
        raise ExpressionError(
            f"The data frame has {len(others)} columns that hold no numbers, such as {others[0]}: give cells in rows, "
            "genes in columns, and nothing else."
        )
    is_sparse = bool(kinds) and all(kind.startswith("Sparse") for kind in kinds)
    if is_sparse:
        return frame.sparse.to_coo().tocsr()
    # pandas' own types become objects otherwise; what is missing is NaN, and refused as such
    is_nullable = any(hasattr(kind, "na_value") for kind in frame.dtypes)
    return frame.to_numpy(np.float64, na_value=np.nan) if is_nullable else frame.to_numpy()
