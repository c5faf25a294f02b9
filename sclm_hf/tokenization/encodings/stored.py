"""Rows of a file, read and encoded a few cells at a time, while what was read is still in the core's cache.

Memory is slow beside the encodings: reading all cells, then taking their genes, then encoding these takes 1.6 times as
long as the three for sixteen cells at a time. What these kernels write is what `encode_bins` and `encode_rank` write
of the same rows.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, types

from .bins import bin_cells, bins_scratch
from .cells import CellGenes, Cells, CellTokens, Layout, Survey, are_ascending, known_ids, take
from .rank import rank_cells, rank_scratch
from .scratch import Scratch

pread = types.ExternalFunction("pread", types.int64(types.int32, types.uintp, types.uint64, types.int64))

_CELLS, _ENTRIES = 16, 2**15
"""Cells and stored entries that are read at a time."""


class StoredEntries(NamedTuple):
    """A one-dimensional array of a file whose bytes lie there as they are.

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


class _Tile(NamedTuple):
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


class _Work(NamedTuple):
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def _tile_end(work, first):
    """The cells `first : end` stand one after the other in the file and are read at once."""
    rows, indptr = work.rows, work.indptr
    end = first + 1
    while end < rows.size and end - first < _CELLS and rows[end] == rows[end - 1] + 1:
        if indptr[rows[end] + 1] - indptr[rows[first]] > _ENTRIES:
            break
        end += 1
    return end


@njit(cache=True, nogil=True)
def _read_tile(work, first, end, tile):
    """Read cells and take their genes; False unless all are sound and have genes."""
    n = end - first
    start = work.indptr[work.rows[first]]
    for i in range(n + 1):
        tile.indptr[i] = work.indptr[work.rows[first] + i] - start
    n_entries = tile.indptr[n]
    indices, data = tile.indices[:n_entries], tile.data[:n_entries]
    if not _read(work.file, work.index_offsets, work.index_chunk, start, indices):
        return False
    if not _read(work.file, work.data_offsets, work.data_chunk, start, data):
        return False
    found = tile.found
    cells = Cells(tile.indptr, indices, data, found.rows[:n], work.tokens, work.sort)
    take(cells, tile.genes, found.genes, found.values, found.fractional, found.problems)
    if work.counts:
        for i in range(n):
            if 2 * found.fractional[i] > found.values[i]:
                return False
    return not found.problems[:n].any() and found.genes[:n].all()


@njit(cache=True, nogil=True)
def _written(layout, tile, out, first, end):
    """Where the cells of a tile are written; sets how many tokens they have."""
    special = (layout.cls_id >= 0) + (layout.eos_id >= 0)
    for i in range(first, end):
        n = tile.genes.columns.size if layout.zeros else tile.found.genes[i - first]
        out.lengths[i] = min(n, layout.max_genes) + special
    return CellTokens(out.ids, out.values, out.starts[first:end], out.lengths[first:end])


@njit(cache=True, nogil=True)
def _encode_bins(work, tile, keys, quantiles, single, layout, out):
    scratch, uniforms = bins_scratch(tile.genes.ids.size, quantiles.size), np.empty(0)
    first = 0
    while first < work.rows.size:
        end = _tile_end(work, first)
        if not _read_tile(work, first, end, tile):
            return False
        written = _written(layout, tile, out, first, end)
        bin_cells(tile.genes, keys[first:end], uniforms, quantiles, single, layout, scratch, written, 0, end - first)
        first = end
    return True


@njit(cache=True, nogil=True)
def _encode_rank(work, tile, target_sum, factors, layout, out):
    scratch = rank_scratch(tile.genes.ids.size)
    first = 0
    while first < work.rows.size:
        end = _tile_end(work, first)
        if not _read_tile(work, first, end, tile):
            return False
        written = _written(layout, tile, out, first, end)
        rank_cells(tile.genes, tile.genes.totals, target_sum, factors, layout, scratch, written, 0, end - first)
        first = end
    return True


def most_tokens(stored: StoredRows, rows: np.ndarray, layout: Layout, n_columns: int) -> np.ndarray:
    """(cells,) int64, how many tokens rows have at most: as many as they have if all their genes are known."""
    n = np.full(len(rows), n_columns) if layout.zeros else stored.indptr[rows + 1] - stored.indptr[rows]
    return np.minimum(n, layout.max_genes) + (layout.cls_id >= 0) + (layout.eos_id >= 0)


def encode_stored_bins(
    stored: StoredRows,
    rows: np.ndarray,
    tokens: np.ndarray,
    keys: np.ndarray,
    layout: Layout,
    out: CellTokens,
    *,
    n_bins: int,
    counts: bool,
    scratch: Scratch,
) -> bool:
    """Read rows and encode them as `encode_bins` does.

    Args:
        stored: the matrix.
        rows: (cells,) int64, ascending.
        tokens: (columns,) int32 token ids of the columns, -1 = column not used; columns of one id are added up.
        keys: (cells,) uint64 from `cell_keys`.
        layout: how a row looks.
        out: where cells are written, beginning at `starts`, with room for
            [`most_tokens`] each; `lengths` is filled in.
        n_bins: as for `encode_bins`.
        counts: whether a row most of whose values are fractional is not sound.
        scratch: memory to work in.

    Returns:
        False when a row is not sound, has no known gene or cannot be read; `out` then holds nothing of use.
    """
    work, tile = _work(stored, rows, tokens, counts), _tile(stored, rows, tokens, scratch)
    single = tile.genes.values.dtype == np.float32
    return _encode_bins(work, tile, keys, np.linspace(0, 1, n_bins - 1), single, layout, out)


def encode_stored_rank(
    stored: StoredRows,
    rows: np.ndarray,
    tokens: np.ndarray,
    layout: Layout,
    out: CellTokens,
    *,
    factors: np.ndarray,
    target_sum: float,
    counts: bool,
    scratch: Scratch,
) -> bool:
    """Read rows and encode them as `encode_rank` does, whose arguments `factors` and `target_sum` are.

    The others, and what is returned, are those of [`encode_stored_bins`].
    """
    work, tile = _work(stored, rows, tokens, counts), _tile(stored, rows, tokens, scratch)
    return _encode_rank(work, tile, float(target_sum), factors, layout, out)


def _work(stored: StoredRows, rows: np.ndarray, tokens: np.ndarray, counts: bool) -> _Work:
    indices, data = stored.indices, stored.data
    places = indices.offsets, indices.chunk_size, data.offsets, data.chunk_size
    sort = not are_ascending(tokens)
    return _Work(stored.file, stored.indptr, *places, rows, tokens, sort, counts)


def _tile(stored: StoredRows, rows: np.ndarray, tokens: np.ndarray, scratch: Scratch) -> _Tile:
    longest = int((stored.indptr[rows + 1] - stored.indptr[rows]).max(initial=0))
    size = max(longest, _ENTRIES)
    kind = stored.data.dtype
    genes = CellGenes(
        indptr=np.empty(_CELLS + 1, np.int64),
        ids=scratch.empty("tile_ids", size, np.int32),
        values=scratch.empty("tile_values", size, np.float32 if kind == np.float32 else np.float64),
        totals=np.empty(_CELLS),
        columns=known_ids(tokens),
    )
    return _Tile(
        indptr=np.empty(_CELLS + 1, np.int64),
        indices=scratch.empty("tile_indices", size, stored.indices.dtype),
        data=scratch.empty("tile_data", size, kind),
        genes=genes,
        found=Survey(np.arange(_CELLS), *np.empty((4, _CELLS), np.int64)),
    )
