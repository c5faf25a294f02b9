"""What .h5ad files and AnnData zarr folders have in common: cells that are read when they are asked for."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

from ...errors import CorpusError, require
from ...tokenization.encodings.scratch import Scratch
from ...tokenization.encodings.stored import StoredRows
from ...tokenization.expression_matrix import data_places, select_counts
from ..categories import frame_of
from ..cell_source import CategoricalColumn, csr_from_arrays
from ..reading_errors import reading_errors_named
from ..stored_arrays import is_array, is_of_h5py, read_whole_numbers
from .elements import (
    check_columns,
    check_matrix,
    column_names,
    describe,
    hash_index,
    hash_texts,
    index_values,
    obsm_names,
    read_column,
    read_index,
    read_obsm,
    view,
)
from .hdf5_ranges import RangeReader, memory_type

if TYPE_CHECKING:
    from pandas import DataFrame

# a matrix stored by columns has to be turned around in memory: values and indices of that many entries take 2 GB
_MAX_CSC_ENTRIES = 2**28

# a name among others costs as much as so many when all are read
_NAMES_FOR_ONE = 16


class AnnDataSource:
    """An AnnData on disk whose rows are read when they are asked for; sub-classes open it.

    Opening reads headers only. The store is opened again in every process that reads, so the source can be pickled
    into the workers of a data loader. CSR (of any chunking and compression) and dense matrices are read by rows; a CSC
    matrix is turned into CSR in memory when its first rows are read, which costs 8 to 16 bytes an entry and is refused
    beyond 2**28 entries. While a store is open, 16 bytes per cell are held.

    Args:
        path: the file or folder.
        name: source name; the name of the file without its suffix by default.
        layer: `"X"`, `"raw"`, or the name of a layer. By default the counts are looked for in `layers["counts"]`,
            `raw` and `X`, in this order.
        expects: what the encoding takes; for `"normalized"` the default is `X`.
        lazy: check when it is first read, not now, that all of the matrix is stored and fits the names of cells and
            genes, and that nothing lies in other files; of a file that is read later, only the size is looked at now.

    Raises:
        CorpusError: it is missing, empty, damaged, of another kind, or has no such matrix or no cell.
        MissingDependencyError: h5py or zarr is not installed.
    """

    _max_gap = 16
    """Two reads cost more than one read of this many cells between them."""

    _stays_sound = True
    """Whether a store with the same stamp is as sound as when it was checked."""

    def __init__(
        self,
        path: str | Path,
        name: str | None = None,
        *,
        layer: str | None = None,
        expects: str = "counts",
        lazy: bool = False,
    ) -> None:
        self.path = Path(path)
        self.name = self.path.stem if name is None else name
        self.location = str(self.path)
        self._layer, self._expects = layer, expects
        self._open: _OpenStore | None = None
        self._key, self._is_sound = "", False
        self._current_stamp()
        with reading_errors_named(self.path, "AnnData file"):
            store = self._open_store()
            try:
                seen = view(store, genes=False)
                matrix, self.data_places = select_counts(seen, layer, expects=expects)[0], data_places(seen)
                self._key = matrix.name
                self._storage, (self.n_cells, self.n_genes) = describe(matrix)
                if not lazy:
                    self._check(store)
            finally:
                self._close_store(store)
        self.stamp = self._current_stamp()
        if not self.n_cells or not self.n_genes:
            raise CorpusError(f"`{self.path}`: `{self._key}` has {self.n_cells} cells and {self.n_genes} genes.")

    @property
    def data_name(self) -> str:
        """Where in the AnnData the data lie, as `select_counts` says it, such as `'layers["counts"]'`."""
        group, _, name = self._key.removeprefix("/").rpartition("/")
        if group == "layers":
            return f'layers["{name}"]'
        return "raw" if group == "raw" or name == "raw.X" else "X"

    def genes(self) -> tuple[Sequence[str], Sequence[str] | None]:
        """(n_genes,) names of the columns and their Ensembl ids or None, as `select_counts` finds them."""
        with self._store() as store:
            _, names, ensembl_ids, _ = select_counts(view(store, genes=True), self._layer, expects=self._expects)
        if len(names) != self.n_genes:
            raise CorpusError(f"`{self.path}`: {len(names)} gene names for {self.n_genes} columns of `{self._key}`.")
        return names, ensembl_ids

    def column_names(self) -> list[str]:
        """Names of the columns of `obs`."""
        with self._store() as store:
            return column_names(store["obs"])

    def obs_names(self) -> np.ndarray:
        """(n_cells,) names of the cells."""
        with self._store() as store:
            return read_index(store["obs"])

    def cell_ids(self, rows: np.ndarray | None = None) -> np.ndarray:
        """(cells,) uint64 made from the names of all cells, or those of `rows`.

        Raises:
            CorpusError: a cell has no name.
        """
        with self._store():
            if rows is None:
                return self._open.cell_ids
            return self._open.some_cell_ids(np.asarray(rows, np.int64), self._spans)

    def column(self, name: str) -> CategoricalColumn:
        """A column of `obs`, whatever its type.

        Raises:
            CorpusError: there is no such column; the message lists those that exist.
        """
        columns = self.column_names()
        if name not in columns:
            raise CorpusError(f"`{self.path}` has no obs column `{name}`; it has {sorted(columns)}.")
        with self._store() as store:
            return read_column(store, store["obs"], name, self.n_cells)

    def obs_frame(self) -> "DataFrame":
        """All columns of `obs`; those of a file of anndata before 0.7 become categories.

        Raises:
            CorpusError: a column is damaged, or does not fit the number of cells.
        """
        with self._store() as store:
            check_columns(store["obs"], self.n_cells)
            if not is_array(store["obs"]):
                return require("anndata", extra="anndata").io.read_elem(store["obs"])
        return frame_of(self)

    def obsm_names(self) -> list[str]:
        """Names of the arrays in `obsm`."""
        with self._store() as store:
            return obsm_names(store)

    def obsm(self, name: str) -> np.ndarray:
        """(n_cells, …) an array of `obsm`.

        Raises:
            CorpusError: it is no array of numbers with one row per cell, or is damaged.
        """
        with self._store() as store:
            return read_obsm(store, name, self.n_cells)

    def check_columns(self) -> None:
        """Compare all columns of `obs` with the number of cells, and codes with categories.

        Raises:
            CorpusError: a column does not fit; the message names it.
        """
        with self._store() as store:
            check_columns(store["obs"], self.n_cells)

    def read(self, rows: np.ndarray, scratch: Scratch | None = None) -> csr_matrix:
        """Read cells.

        Args:
            rows: ascending row numbers. Rows that lie close together are read in one go.
            scratch: memory to read into; what is returned may lie there, until the scratch is used again.

        Returns:
            (len(rows), n_genes) CSR with the values as stored; column indices are not checked.

        Raises:
            CorpusError: the file vanished, changed since it was opened, or is damaged.
        """
        rows = np.asarray(rows, dtype=np.int64)
        spans = self._spans(rows)
        with self._store():
            matrix = self._open.read(spans, scratch or Scratch())
        return matrix if matrix.shape[0] == len(rows) else matrix[_places(rows, spans)]

    def empty_rows(self) -> np.ndarray:
        """Rows without any value, ascending; of a dense matrix none are known."""
        with self._store():
            return self._open.empty_rows()

    @contextmanager
    def stored_rows(self) -> Iterator[StoredRows | None]:
        """Where the matrix lies in the file, good until the end even if the source is closed.

        None where it is not stored as uncompressed CSR, or where that is not known yet, before any rows were read.

        Raises:
            CorpusError: the file vanished, changed since it was opened, or is damaged.
        """
        with self._store():
            stored = self._open.stored
        try:
            yield stored
        finally:
            if stored is not None:
                os.close(stored.file)
        self._refuse_changed()

    def _spans(self, rows: np.ndarray) -> list[tuple[int, int]]:
        """(start, stop) of the consecutive rows that are read to have `rows`."""
        breaks = np.flatnonzero(np.diff(rows) > self._max_gap) + 1
        return [(int(part[0]), int(part[-1]) + 1) for part in np.split(rows, breaks) if len(part)]

    def close(self) -> None:
        """Close the file and forget what was read from it; the next read opens it again."""
        if self._open is not None and self._open.pid == os.getpid():
            self._close_store(self._open.store)
        self._open = None

    def _open_store(self) -> Any:
        """Open the store for reading: a group of h5py or zarr."""
        raise NotImplementedError

    def _close_store(self, store: Any) -> None:
        """Close what `_open_store` returned."""
        raise NotImplementedError

    def _check(self, store: Any) -> None:
        """Refuse an open store of which not everything is there that is read of it."""
        check_matrix(store, self._key, self._storage, (self.n_cells, self.n_genes))
        self._is_sound = self._stays_sound

    def _stamp_paths(self) -> list[Path]:
        """Files whose sizes and times tell that the store has changed."""
        return [self.path]

    def _current_stamp(self) -> list[tuple[int, int]]:
        try:
            found = [os.stat(path) for path in self._stamp_paths()]
        except OSError as error:
            raise CorpusError(f"`{self.path}` cannot be read: {error.filename}: {error.strerror}.") from error
        return [(status.st_size, status.st_mtime_ns) for status in found]

    @contextmanager
    def _store(self) -> Iterator[Any]:
        self._refuse_changed()
        with reading_errors_named(self.path, "AnnData file"):
            # a handle that came over a fork shares its state with the parent's
            if self._open is None or self._open.pid != os.getpid():
                store = self._open_store()
                if not self._is_sound:
                    self._check(store)
                self._open = _OpenStore(store, self._key, self._storage, (self.n_cells, self.n_genes))
            yield self._open.store
        # what was read while the file changed may be half of the old and half of the new
        self._refuse_changed()

    def _refuse_changed(self) -> None:
        if self._current_stamp() != self.stamp:
            raise CorpusError(f"`{self.path}` changed while the corpus was in use: open the corpus again.")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def __repr__(self) -> str:
        size = f"{self.n_cells:,} cells × {self.n_genes:,} genes from `{self._key}`"
        return f"{type(self).__name__}({self.location!r}, {size})"


def _places(rows: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
    """Where `rows` are among those of the spans."""
    return np.searchsorted(np.concatenate([np.arange(start, stop) for start, stop in spans]), rows)


class _OpenStore:
    """An open store with what is needed to find rows in it."""

    def __init__(self, store: Any, key: str, storage: str, shape: tuple[int, int]) -> None:
        self.store, self.pid, self._n_named = store, os.getpid(), 0
        self._matrix, self._storage, self._shape = store[key], storage, shape
        if storage == "dense":
            return
        self._indptr = read_whole_numbers(self._matrix["indptr"]).astype(np.int64, copy=False)
        self._indices, self._data = RangeReader(self._matrix["indices"]), RangeReader(self._matrix["data"])
        # compared, as differences of damaged ones may overflow
        falls = (self._indptr[1:] < self._indptr[:-1]).any()
        if self._indptr[0] or self._indptr[-1] != self._data.shape[0] or falls:
            raise CorpusError(
                f"indptr, indices and data of `{key}` do not fit together: its bounds must rise from 0 to the "
                f"{self._data.shape[0]:,} values stored"
            )
        if storage == "csc":
            self._turn_around(key)

    @functools.cached_property
    def cell_ids(self) -> np.ndarray:
        """(n_cells,) uint64 made from the names of the cells."""
        return hash_index(self.store["obs"])

    @functools.cached_property
    def _names(self) -> Any:
        """The array of the names of the cells."""
        return index_values(self.store["obs"])

    def some_cell_ids(self, rows: np.ndarray, spans_of: Callable) -> np.ndarray:
        """(cells,) uint64 made from the names of the cells `rows`.

        Of many files a few cells each are read; so all names are read only when a share of them was asked for.
        """
        self._n_named += len(rows)
        if "cell_ids" in vars(self) or _NAMES_FOR_ONE * self._n_named > self._shape[0] or not is_of_h5py(self._names):
            return self.cell_ids[rows]
        spans = spans_of(rows)
        parts = [self._names[start:stop] for start, stop in spans]
        read = hash_texts(np.concatenate([np.empty(0, object), *parts]))
        return read[_places(rows, spans)]

    @property
    def stored(self) -> StoredRows | None:
        """Where the matrix lies, with a descriptor of its own, if it is stored uncompressed."""
        if self._storage != "csr" or self._indices.stored is None or self._data.stored is None:
            return None
        return StoredRows(os.dup(self._data.file), self._indptr, self._indices.stored, self._data.stored)

    def empty_rows(self) -> np.ndarray:
        """Rows without any value; none of a dense matrix."""
        return np.flatnonzero(np.diff(self._indptr) == 0) if self._storage == "csr" else np.empty(0, np.int64)

    def read(self, spans: list[tuple[int, int]], scratch: Scratch) -> csr_matrix:
        """The rows of all `spans` (start, stop), one after the other."""
        n_genes = self._shape[1]
        if self._storage == "dense":
            dtype = memory_type(self._matrix.dtype)
            parts = [self._matrix[start:stop].astype(dtype, copy=False) for start, stop in spans]
            return csr_matrix(np.concatenate(parts)) if parts else csr_matrix((0, n_genes), dtype=dtype)
        starts = [int(self._indptr[start]) for start, _ in spans]
        stops = [int(self._indptr[stop]) for _, stop in spans]
        counts = [self._indptr[start + 1 : stop + 1] - self._indptr[start:stop] for start, stop in spans]
        indptr = np.concatenate([[0], *counts]).cumsum(dtype=np.int64)
        data = scratch.empty("data", indptr[-1], self._data.dtype)
        indices = scratch.empty("indices", indptr[-1], self._indices.dtype)
        place = 0
        for start, stop in zip(starts, stops, strict=True):
            end = place + stop - start
            self._data.read_into(data[place:end], start)
            self._indices.read_into(indices[place:end], start)
            place = end
        return csr_from_arrays(data, indices, indptr, n_genes)

    def _turn_around(self, key: str) -> None:
        if self._data.shape[0] > _MAX_CSC_ENTRIES:
            raise CorpusError(
                f"`{key}` is stored by columns (CSC) and too large to be turned around in memory: write it by rows, "
                "`adata.X = adata.X.tocsr()`"
            )
        data, indices = self._data.all(), self._indices.all()
        if indices.size and not 0 <= indices.min() <= indices.max() < self._shape[0]:
            raise CorpusError(f"`{key}` has row indices beyond its {self._shape[0]} cells")
        matrix = csc_matrix((data, indices, self._indptr), shape=self._shape).tocsr()
        self._indptr = matrix.indptr.astype(np.int64)
        self._indices, self._data = RangeReader(matrix.indices), RangeReader(matrix.data)
        self._storage = "csr"
