"""Rows of a file, read and encoded a few cells at a time, while what was read is still in the core's cache.

Memory is slow beside the encodings: reading all cells, then taking their genes, then encoding these takes 1.6 times as
long as the three for eight cells at a time. An encoding that reads files calls [`open_tile`], then in its kernel
[`read_tile`] and [`written`] by turns (see `bins`).
"""

from typing import NamedTuple

import numpy as np
from numba import types

from .cells import OUT_OF_RANGE, CellGenes, Cells, CellTokens, Columns, Layout, Survey, take
from .kernels import kernel, part
from .scratch import Scratch

pread = types.ExternalFunction("pread", types.int64(types.int32, types.uintp, types.uint64, types.int64))

_CELLS, _ENTRIES = 8, 2**14
"""Cells and stored entries that are read at a time."""

OUT_OF_FILE = 16
"""The file does not hold what it promises; beside what `survey` may find wrong."""


class StoredEntries(NamedTuple):
    """A one-dimensional array that a file stores uncompressed.

    Attributes:
        offsets: (chunks,) int64, the byte at which each chunk begins.
        chunk_size: entries of a chunk.
        dtype: their type.
    """

    offsets: np.ndarray
    chunk_size: int
    dtype: np.dtype


class StoredRows(NamedTuple):
    """A CSR matrix in a file.

    Attributes:
        file: descriptor of the open file.
        indptr: (rows + 1,) int64.
        indices, data: its other arrays.
    """

    file: int
    indptr: np.ndarray
    indices: StoredEntries
    data: StoredEntries


class Tile(NamedTuple):
    """Memory for the cells that are read at a time.

    Attributes:
        indptr, indices, data: the cells as read.
        genes: their genes.
        found: what a survey says of them; its `rows` are those of `indptr`.
    """

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    genes: CellGenes
    found: Survey


class Work(NamedTuple):
    """What is encoded: rows of a file, seen through the model's vocabulary; `StoredRows` in the form kernels read.

    With `counts`, rows most of whose values are fractional are not sound.
    """

    file: int
    indptr: np.ndarray
    index_offsets: np.ndarray
    index_chunk: int
    data_offsets: np.ndarray
    data_chunk: int
    rows: np.ndarray
    tokens: np.ndarray
    sort: bool
    counts: bool


@part
def _read(file, offsets, chunk_size, start, out):
    """Fill `out` with the entries from `start` on; False when the file does not hold them."""
    done = 0
    while done < out.size:
        chunk, within = divmod(start + done, chunk_size)
        n = min(out.size - done, chunk_size - within)
        last = chunk
        while done + n < out.size and offsets[last + 1] - offsets[last] == chunk_size * out.itemsize:
            last += 1
            n = min(out.size - done, n + chunk_size)
        at, size = offsets[chunk] + within * out.itemsize, n * out.itemsize
        if pread(np.int32(file), out[done:].ctypes.data, size, at) != size:
            return False
        done += n
    return True


@part
def _inside(indices, n_columns):
    inside = True
    for j in range(indices.size):
        inside &= (indices[j] >= 0) & (indices[j] < n_columns)
    return inside


@part
def _tile_end(work, first):
    """The cells `first : end` stand one after the other in the file and are read at once."""
    rows, indptr = work.rows, work.indptr
    end = first + 1
    while end < rows.size and end - first < _CELLS and rows[end] == rows[end - 1] + 1:
        if indptr[rows[end] + 1] - indptr[rows[first]] > _ENTRIES:
            break
        end += 1
    return end


@kernel
def copy_rows(from_indices, from_data, starts, lengths, places, n_columns, indices, data):
    """[`scatter_rows`] from arrays in memory."""
    for i in range(starts.size):
        if places[i] < 0:
            continue
        to, n = places[i], lengths[i]
        row, values = from_indices[starts[i] : starts[i] + n], from_data[starts[i] : starts[i] + n]
        if not _inside(row, n_columns):
            return OUT_OF_RANGE
        for j in range(n):
            indices[to + j] = row[j]
        for j in range(n):
            data[to + j] = values[j]
    return 0


@kernel
def scatter_rows(work, tile_indices, tile_data, starts, lengths, places, n_columns, indices, data):
    """Read rows of a file, those that stand side by side together, to where they belong in arrays of the same types.

    Args:
        work, tile_indices, tile_data: from [`open_rows`].
        starts, lengths: (rows,) int64, the first entry of each row and how many it has.
        places: (rows,) int64, where its entries begin in `indices` and `data`; -1 = nowhere.
        n_columns: columns of the matrix.
        indices, data: what is filled in.

    Returns:
        0, `OUT_OF_FILE` or `OUT_OF_RANGE`.
    """
    first = 0
    while first < work.rows.size:
        end = _tile_end(work, first)
        begin, n = starts[first], starts[end - 1] + lengths[end - 1] - starts[first]
        if not _read(work.file, work.index_offsets, work.index_chunk, begin, tile_indices[:n]):
            return OUT_OF_FILE
        if not _read(work.file, work.data_offsets, work.data_chunk, begin, tile_data[:n]):
            return OUT_OF_FILE
        wrong = copy_rows(
            tile_indices,
            tile_data,
            starts[first:end] - begin,
            lengths[first:end],
            places[first:end],
            n_columns,
            indices,
            data,
        )
        if wrong:
            return wrong
        first = end
    return 0


@part
def read_tile(work, first, tile):
    """Read cells from number `first` on and take their genes.

    Returns the number of the cell after them, or -1 unless all are sound and have genes.
    """
    end = _tile_end(work, first)
    n = end - first
    start = work.indptr[work.rows[first]]
    for i in range(n + 1):
        tile.indptr[i] = work.indptr[work.rows[first] + i] - start
    n_entries = tile.indptr[n]
    indices, data = tile.indices[:n_entries], tile.data[:n_entries]
    if not _read(work.file, work.index_offsets, work.index_chunk, start, indices):
        return -1
    if not _read(work.file, work.data_offsets, work.data_chunk, start, data):
        return -1
    found = tile.found
    cells = Cells(tile.indptr, indices, data, found.rows[:n], work.tokens, work.sort)
    take(cells, tile.genes, found.genes, found.values, found.fractional, found.problems)
    for i in range(n):
        fractional = work.counts and 2 * found.fractional[i] > found.values[i]
        if fractional or found.problems[i] or not found.genes[i]:
            return -1
    return end


@part
def written(layout, tile, out, first, end):
    """Where the cells `first : end`, which a tile holds, are written; sets how many tokens they have."""
    special = (layout.cls_id >= 0) + (layout.eos_id >= 0)
    for i in range(first, end):
        n = tile.genes.columns.size if layout.zeros else tile.found.genes[i - first]
        out.lengths[i] = min(n, layout.max_genes) + special
    return CellTokens(out.ids, out.values, out.starts[first:end], out.lengths[first:end])


def most_tokens(stored: StoredRows, rows: np.ndarray, layout: Layout, n_columns: int) -> np.ndarray:
    """(cells,) int64, how many tokens rows have at most: as many as they have if all their genes are known."""
    n = np.full(len(rows), n_columns) if layout.zeros else stored.indptr[rows + 1] - stored.indptr[rows]
    return np.minimum(n, layout.max_genes) + (layout.cls_id >= 0) + (layout.eos_id >= 0)


def open_rows(stored: StoredRows, rows: np.ndarray) -> tuple[Work, np.ndarray, np.ndarray]:
    """What [`scatter_rows`] reads from, and memory to read into; `rows` (cells,) int64 ascend."""
    places = stored.indices.offsets, stored.indices.chunk_size, stored.data.offsets, stored.data.chunk_size
    work = Work(stored.file, stored.indptr, *places, rows, np.empty(0, np.int32), False, False)
    size = max(_ENTRIES, int((stored.indptr[rows + 1] - stored.indptr[rows]).max(initial=0)))
    return work, np.empty(size, stored.indices.dtype), np.empty(size, stored.data.dtype)


def open_tile(
    stored: StoredRows, rows: np.ndarray, columns: Columns, *, counts: bool, scratch: Scratch
) -> tuple[Work, Tile]:
    """What [`read_tile`] reads from and into.

    Args:
        stored: the matrix.
        rows: (cells,) int64, ascending.
        columns: the columns of the matrix.
        counts: whether rows most of whose values are fractional are not sound.
        scratch: memory to work in.
    """
    indices, data = stored.indices, stored.data
    places = indices.offsets, indices.chunk_size, data.offsets, data.chunk_size
    work = Work(stored.file, stored.indptr, *places, rows, columns.tokens, not columns.ascending, counts)
    return work, _tile(stored, rows, columns, scratch)


def _tile(stored: StoredRows, rows: np.ndarray, columns: Columns, scratch: Scratch) -> Tile:
    longest = int((stored.indptr[rows + 1] - stored.indptr[rows]).max(initial=0))
    size = max(longest, _ENTRIES)
    kind = stored.data.dtype
    genes = CellGenes(
        indptr=np.empty(_CELLS + 1, np.int64),
        ids=scratch.empty("tile_ids", size, np.int32),
        values=scratch.empty("tile_values", size, np.float32 if kind == np.float32 else np.float64),
        totals=np.empty(_CELLS),
        columns=columns.known,
    )
    return Tile(
        indptr=np.empty(_CELLS + 1, np.int64),
        indices=scratch.empty("tile_indices", size, stored.indices.dtype),
        data=scratch.empty("tile_data", size, kind),
        genes=genes,
        found=Survey(np.arange(_CELLS), *np.empty((4, _CELLS), np.int64)),
    )
