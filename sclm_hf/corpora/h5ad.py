"""One .h5ad file as a lazy source of cells."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

from ..errors import CorpusError, ExpressionError, require
from ..tokenization.processing_cell import select_counts
from .sources import CategoricalColumn, csr_from_arrays

# Two reads cost more than one read of this many cells between them.
_MAX_GAP = 16

# A matrix stored by columns has to be turned around in memory: values and indices of that many entries take 2 GB.
_MAX_CSC_ENTRIES = 2**28


class H5adSource:
    """A .h5ad file whose rows are read when they are asked for.

    Opening reads the header only. The file is opened again in every process that reads, so the source can be pickled
    into the workers of a data loader. CSR (of any chunking and compression) and dense matrices are read by rows; a CSC
    matrix is turned into CSR in memory when its first rows are read, which costs 8 to 16 bytes an entry and is refused
    beyond 2**28 entries. While a file is open, 8 bytes a cell are held.

    Args:
        path: the file.
        name: source name; the file name without its suffix by default.
        layer: `"X"`, `"raw"`, or the name of a layer. By default the counts are looked for in `layers["counts"]`,
            `raw` and `X`, in this order.
        expects: what the encoding takes; for `"normalized"` the default is `X`.

    Raises:
        CorpusError: the file is missing, empty, damaged, no HDF5 file, or has no such matrix or no cell.
        MissingDependencyError: h5py is not installed.
    """

    def __init__(
        self, path: str | Path, name: str | None = None, *, layer: str | None = None, expects: str = "counts"
    ) -> None:
        self.path = Path(path)
        self.name = self.path.stem if name is None else name
        self.location = str(self.path)
        self._layer, self._expects = layer, expects
        self._open: _OpenFile | None = None
        self._stamp = self._current_stamp()
        with self._errors_named():
            file = _open_hdf5(self.path)
            try:
                matrix = select_counts(_view(file, genes=False), layer, expects=expects)[0]
                self._key = matrix.name
                self._storage, (self.n_cells, self.n_genes) = _describe(matrix)
            finally:
                file.close()
        if not self.n_cells or not self.n_genes:
            raise CorpusError(f"`{self.path}`: `{self._key}` has {self.n_cells} cells and {self.n_genes} genes.")

    def genes(self) -> tuple[Sequence[str], Sequence[str] | None]:
        """(n_genes,) names of the columns and their Ensembl ids or None, as `select_counts` finds them."""
        with self._file() as file:
            _, names, ensembl_ids, _ = select_counts(_view(file, genes=True), self._layer, expects=self._expects)
        if len(names) != self.n_genes:
            raise CorpusError(f"`{self.path}`: {len(names)} gene names for {self.n_genes} columns of `{self._key}`.")
        return names, ensembl_ids

    def obs_names(self) -> np.ndarray:
        """(n_cells,) names of the cells."""
        with self._file() as file:
            return _read_index(file["obs"])

    def column(self, name: str) -> CategoricalColumn:
        """A column of `obs`, whatever its type.

        Raises:
            CorpusError: there is no such column; the message lists those that exist.
        """
        with self._file() as file:
            columns = _columns(file["obs"])
            if name not in columns:
                raise CorpusError(f"`{self.path}` has no obs column `{name}`; it has {sorted(columns)}.")
            column = _read_categorical(file["obs"], name)
        if len(column.codes) != self.n_cells:
            raise CorpusError(
                f"`{self.path}`: `obs[{name!r}]` has {len(column.codes)} values for {self.n_cells} cells."
            )
        return column

    def read(self, rows: np.ndarray) -> csr_matrix:
        """Read cells.

        Args:
            rows: ascending row numbers. Rows that lie close together are read in one go.

        Returns:
            (len(rows), n_genes) CSR with the values as stored; column indices are not checked.

        Raises:
            CorpusError: the file vanished, changed since it was opened, or is damaged.
        """
        rows = np.asarray(rows, dtype=np.int64)
        breaks = np.flatnonzero(np.diff(rows) > _MAX_GAP) + 1
        spans = [(int(part[0]), int(part[-1]) + 1) for part in np.split(rows, breaks) if len(part)]
        with self._file():
            matrix = self._open.read(spans)
        if matrix.shape[0] == len(rows):
            return matrix
        read = np.concatenate([np.arange(start, stop) for start, stop in spans])
        return matrix[np.searchsorted(read, rows)]

    def close(self) -> None:
        """Close the file and forget what was read from it; the next read opens it again."""
        if self._open is not None and self._open.pid == os.getpid():
            self._open.file.close()
        self._open = None

    def _current_stamp(self) -> tuple[int, int]:
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise CorpusError(f"`{self.path}` cannot be read: {error.strerror}.") from error
        return status.st_size, status.st_mtime_ns

    @contextmanager
    def _file(self) -> Iterator[Any]:
        if self._current_stamp() != self._stamp:
            raise CorpusError(f"`{self.path}` changed while the corpus was in use: open the corpus again.")
        with self._errors_named():
            # A handle that came over a fork shares its state with the parent's.
            if self._open is None or self._open.pid != os.getpid():
                self._open = _OpenFile(_open_hdf5(self.path), self._key, self._storage, (self.n_cells, self.n_genes))
            yield self._open.file

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (CorpusError, ExpressionError) as error:
            if str(self.path) in str(error):
                raise
            raise CorpusError(f"`{self.path}`: {error}") from error
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise CorpusError(f"`{self.path}` is damaged or no AnnData file: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def __repr__(self) -> str:
        return f"H5adSource({self.location!r}, {self.n_cells:,} cells × {self.n_genes:,} genes from `{self._key}`)"


class _OpenFile:
    """An open file with what is needed to find rows in it."""

    def __init__(self, file: Any, key: str, storage: str, shape: tuple[int, int]) -> None:
        self.file, self.pid = file, os.getpid()
        self._matrix, self._storage, self._shape = file[key], storage, shape
        if storage == "dense":
            return
        self._indptr = np.asarray(self._matrix["indptr"][:], dtype=np.int64)
        self._indices, self._data = self._matrix["indices"], self._matrix["data"]
        n_lines = shape[0] if storage == "csr" else shape[1]
        sizes = {int(self._indptr[-1]) if len(self._indptr) else -1, len(self._indices), len(self._data)}
        if len(self._indptr) != n_lines + 1 or len(sizes) > 1 or self._indptr[0] or (np.diff(self._indptr) < 0).any():
            raise CorpusError(f"indptr, indices and data of `{key}` do not fit together")
        if storage == "csc":
            self._turn_around(key)

    def read(self, spans: list[tuple[int, int]]) -> csr_matrix:
        """The rows of all `spans` (start, stop), one after the other."""
        n_genes = self._shape[1]
        if self._storage == "dense":
            parts = [self._matrix[start:stop] for start, stop in spans]
            return csr_matrix(np.concatenate(parts)) if parts else csr_matrix((0, n_genes), dtype=self._matrix.dtype)
        starts = [int(self._indptr[start]) for start, _ in spans]
        stops = [int(self._indptr[stop]) for _, stop in spans]
        counts = [self._indptr[start + 1 : stop + 1] - self._indptr[start:stop] for start, stop in spans]
        indptr = np.concatenate([[0], *counts]).cumsum(dtype=np.int64)
        data = np.empty(indptr[-1], self._data.dtype)
        indices = np.empty(indptr[-1], self._indices.dtype)
        place = 0
        for start, stop in zip(starts, stops, strict=True):
            end = place + stop - start
            data[place:end] = self._data[start:stop]
            indices[place:end] = self._indices[start:stop]
            place = end
        return csr_from_arrays(data, indices, indptr, n_genes)

    def _turn_around(self, key: str) -> None:
        if len(self._data) > _MAX_CSC_ENTRIES:
            raise CorpusError(
                f"`{key}` is stored by columns (CSC) and too large to be turned around in memory: write it by rows, "
                "`adata.X = adata.X.tocsr()`"
            )
        matrix = csc_matrix((self._data[:], self._indices[:], self._indptr), shape=self._shape).tocsr()
        self._indptr, self._indices, self._data = matrix.indptr.astype(np.int64), matrix.indices, matrix.data
        self._storage = "csr"


def _open_hdf5(path: Path) -> Any:
    h5py = require("h5py", extra="anndata")
    if path.stat().st_size == 0:
        raise CorpusError(f"`{path}` is empty (0 bytes).")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        kind = "truncated or damaged" if "truncated" in str(error) else "no HDF5 file, or damaged"
        raise CorpusError(f"`{path}` is {kind}: {error}") from error


def _view(file: Any, *, genes: bool) -> SimpleNamespace:
    """What `select_counts` looks at of an AnnData; nothing of it is read but, where asked for, the names of genes."""

    def part(matrix: Any, var: str) -> dict[str, Any]:
        frame = file[var] if genes else None
        return {"X": matrix, "var": _Frame(frame), "var_names": _read_index(frame) if genes else []}

    raw = next(((file[x], var) for x, var in (("raw/X", "raw/var"), ("raw.X", "raw.var")) if x in file), None)
    return SimpleNamespace(
        layers=dict(file["layers"]) if "layers" in file else {},
        raw=SimpleNamespace(**part(*raw)) if raw else None,
        **part(file.get("X"), "var"),
    )


class _Frame:
    """A data frame in a file whose columns are read when they are asked for."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def __contains__(self, name: str) -> bool:
        return self._group is not None and name in _columns(self._group)

    def __getitem__(self, name: str) -> list[str]:
        column = _read_categorical(self._group, name)
        return np.array([*column.categories, ""], dtype=object)[column.codes].tolist()


def _describe(matrix: Any) -> tuple[str, tuple[int, int]]:
    """How a matrix is stored ("csr", "csc" or "dense"), and its shape."""
    attributes = matrix.attrs
    if hasattr(matrix, "shape"):
        if len(matrix.shape) != 2:
            raise CorpusError(f"`{matrix.name}` has {len(matrix.shape)} dimensions, not 2")
        return "dense", (int(matrix.shape[0]), int(matrix.shape[1]))
    storage = str(attributes.get("encoding-type", attributes.get("h5sparse_format", ""))).removesuffix("_matrix")
    if storage not in ("csr", "csc"):
        raise CorpusError(f"`{matrix.name}` is neither a dense, a CSR nor a CSC matrix")
    n_cells, n_genes = attributes["shape"] if "shape" in attributes else attributes["h5sparse_shape"]
    return storage, (int(n_cells), int(n_genes))


def _columns(frame: Any) -> list[str]:
    """Names of the columns of `obs` or `var`, the index left out."""
    if hasattr(frame, "dtype"):
        return [name for name in frame.dtype.names if name != _index_name(frame)]
    return [name for name in frame if name not in ("__categories", _index_name(frame))]


def _index_name(frame: Any) -> str:
    name = frame.attrs.get("_index", "index")
    return name.decode() if isinstance(name, bytes) else str(name)


def _read_index(frame: Any) -> np.ndarray:
    return _as_strings(_values(frame[_index_name(frame)]))


def _read_categorical(frame: Any, name: str) -> CategoricalColumn:
    """A column in compact form; files of every age of anndata."""
    column = frame[name]
    if hasattr(column, "shape") and "categories" in getattr(column, "attrs", {}):
        return _compact(column[:], frame.file[column.attrs["categories"]][:])
    if hasattr(column, "keys") and "categories" in column and "codes" in column:
        return _compact(column["codes"][:], _values(column["categories"]))
    if hasattr(column, "keys"):
        missing = column["mask"][:] if "mask" in column else np.zeros(len(_values(column)), bool)
    else:
        missing = np.isnan(column[:]) if column.dtype.kind == "f" else np.zeros(len(column), bool)
    text = _as_strings(_values(column))
    categories, codes = np.unique(text[~missing].astype(str), return_inverse=True)
    all_codes = np.full(len(text), -1, dtype=np.int64)
    all_codes[~missing] = codes
    return _compact(all_codes, categories)


def _values(element: Any) -> np.ndarray:
    """What a dataset, or a group that encodes an array (nullable strings and numbers), holds."""
    if hasattr(element, "shape"):
        return element[:]
    return np.asarray(require("anndata", extra="anndata").io.read_elem(element), dtype=object)


def _compact(codes: np.ndarray, categories: np.ndarray) -> CategoricalColumn:
    return CategoricalColumn(codes.astype(np.min_scalar_type(-len(categories) - 1)), tuple(_as_strings(categories)))


def _as_strings(values: np.ndarray) -> np.ndarray:
    items = values.tolist()
    if items and all(type(item) is bytes for item in items):
        # Decoding all at once is several times faster; no name holds a NUL, which ends strings in HDF5.
        items = b"\0".join(items).decode().split("\0")
    return np.array([str(item) for item in items], dtype=object)
