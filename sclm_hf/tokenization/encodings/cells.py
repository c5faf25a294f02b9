"""What every encoding does around its kernel: read the known genes of CSR rows, keep what fits, write padded rows."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import njit

from ...errors import ExpressionError
from .keys import SUBSET, draw, substream
from .sorting import MAX_BUCKETS, stable_sort

OUT_OF_RANGE, UNSORTED, NEGATIVE, NOT_FINITE = 1, 2, 4, 8
"""What [`survey`] may find wrong with a row; the numbers add up."""


class Cells(NamedTuple):
    """Rows of a CSR matrix, seen through the model's vocabulary.

    Attributes:
        indptr, indices, data: the arrays of the CSR matrix.
        rows: (cells,) int64, the rows that are meant, in the order wanted.
        tokens: (columns,) int32, token id of each column, -1 = column not used.
    """

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    rows: np.ndarray
    tokens: np.ndarray


class Layout(NamedTuple):
    """How a cell's tokens stand in its padded row: `<cls>`, genes, `<eos>`, padding.

    Attributes:
        cls_id, eos_id, pad_id: token ids; -1 = no such token.
        cls_value, pad_value: the values that go with `<cls>` and with `<eos>` and padding.
        max_genes: how many genes fit.
        sample: keep a keyed random subset of a longer cell (in column order) instead of its first genes.
        zeros: genes that are not expressed stand in the row too, with value 0.
    """

    cls_id: int
    eos_id: int
    pad_id: int
    cls_value: float
    pad_value: float
    max_genes: int
    sample: bool
    zeros: bool


class Survey(NamedTuple):
    """What [`survey`] found, one entry a cell.

    Attributes:
        rows: number of the cell's row.
        genes: expressed genes that the vocabulary knows.
        values: expressed genes, known or not.
        fractional: how many of those are not whole numbers.
        problems: sum of `OUT_OF_RANGE`, `UNSORTED` (or doubled), `NEGATIVE`, `NOT_FINITE`; 0 = sound.
    """

    rows: np.ndarray
    genes: np.ndarray
    values: np.ndarray
    fractional: np.ndarray
    problems: np.ndarray


@njit(cache=True, nogil=True)
def _indices_problems(indices, n_columns):
    ascending = True
    inside = True
    for j in range(indices.size):
        inside &= (indices[j] >= 0) & (indices[j] < n_columns)
    for j in range(1, indices.size):
        ascending &= indices[j - 1] < indices[j]
    return (0 if inside else OUT_OF_RANGE) + (0 if ascending else UNSORTED)


@njit(cache=True, nogil=True)
def _survey(cells, genes, values, fractional, problems):
    for i in range(cells.rows.size):
        start, stop = cells.indptr[cells.rows[i]], cells.indptr[cells.rows[i] + 1]
        indices, data = cells.indices[start:stop], cells.data[start:stop]
        problems[i] = _indices_problems(indices, cells.tokens.size)
        n_values = n_fractional = n_negative = n_infinite = 0
        for j in range(data.size):
            value = np.float64(data[j])
            n_values += value != 0
            n_fractional += value != np.floor(value)
            n_negative += value < 0
            n_infinite += value - value != 0
        values[i], fractional[i] = n_values, n_fractional
        problems[i] += (NEGATIVE if n_negative else 0) + (NOT_FINITE if n_infinite else 0)
        n_genes = 0
        if not problems[i] & OUT_OF_RANGE:
            for j in range(data.size):
                n_genes += (data[j] != 0) & (cells.tokens[indices[j]] >= 0)
        genes[i] = n_genes


def survey(cells: Cells) -> Survey:
    """Count the genes of cells and look for values and indices that no encoding can take."""
    counts = tuple(np.empty(cells.rows.size, np.int64) for _ in range(4))
    _survey(cells, *counts)
    return Survey(cells.rows, *counts)


@njit(cache=True, nogil=True)
def widest(cells, start, stop):
    """The most entries that one of the rows `start:stop` stores; at least 1."""
    most = 1
    for i in range(start, stop):
        most = max(most, cells.indptr[cells.rows[i] + 1] - cells.indptr[cells.rows[i]])
    return most


@njit(cache=True, nogil=True)
def gather(cells, i, ids, values):
    """Copy the expressed, known genes of cell `i` into scratch of [`widest`] + 1 entries; returns how many."""
    start, stop = cells.indptr[cells.rows[i]], cells.indptr[cells.rows[i] + 1]
    indices, data = cells.indices[start:stop], cells.data[start:stop]
    n = np.uint32(0)
    for j in range(data.size):
        token = cells.tokens[np.uint32(indices[j])]
        ids[n] = token
        values[n] = data[j]
        n += np.uint32((token >= 0) & (data[j] != 0))
    return np.int64(n)


@njit(cache=True, nogil=True)
def locate(cells, i, entries):
    """Where in the matrix's data the genes that [`gather`] copies stand."""
    place = 0
    for entry in range(cells.indptr[cells.rows[i]], cells.indptr[cells.rows[i] + 1]):
        entries[place] = entry
        place += (cells.tokens[cells.indices[entry]] >= 0) & (cells.data[entry] != 0)


@njit(cache=True, nogil=True)
def keep(stream_key, ids, n, max_genes, chosen):
    """Mark the `max_genes` of `n` genes with the smallest draws: a random subset that column order does not move."""
    draws, ordered = np.empty(n, np.uint64), np.empty(n, np.uint64)
    for i in range(n):
        draws[i] = draw(stream_key, ids[i])
    order, places, starts = np.empty(n, np.int32), np.empty(n, np.uint16), np.empty(MAX_BUCKETS, np.int32)
    stable_sort(draws, n, ordered, order, places, starts)
    for i in range(n):
        chosen[i] = draws[i] < ordered[max_genes]


@njit(cache=True, nogil=True)
def write_ids(layout, n, out_ids, out_mask):
    """Write what surrounds `n` genes in a row of ids and of the mask; returns where the genes begin."""
    first = 0
    if layout.cls_id >= 0:
        out_ids[0] = layout.cls_id
        first = 1
    end = first + n
    if layout.eos_id >= 0:
        out_ids[end] = layout.eos_id
        end += 1
    out_ids[end:] = layout.pad_id
    out_mask[:end] = 1
    out_mask[end:] = 0
    return first


@njit(cache=True, nogil=True)
def _with_zeros(cells, ids, values, n):
    """Ids and values of every known column, given those of a cell's `n` expressed genes, in column order."""
    all_ids, all_values = np.empty(cells.tokens.size, np.int32), np.zeros(cells.tokens.size, values.dtype)
    place = expressed = 0
    for token in cells.tokens:
        if token >= 0:
            all_ids[place] = token
            if expressed < n and ids[expressed] == token:
                all_values[place] = values[expressed]
                expressed += 1
            place += 1
    return all_ids, all_values, place


@njit(cache=True, nogil=True)
def write_cell(cells, i, layout, key, ids, values, n, out_ids, out_values, out_mask):
    """Write cell `i` into its padded rows: at most `layout.max_genes` of its genes, in column order.

    `ids` and `values` are those of its `n` expressed genes.
    """
    if layout.zeros:
        ids, values, n = _with_zeros(cells, ids, values, n)
    out_ids, out_values, out_mask = out_ids[i], out_values[i], out_mask[i]
    kept = min(n, layout.max_genes)
    first = write_ids(layout, kept, out_ids, out_mask)
    if layout.cls_id >= 0:
        out_values[0] = layout.cls_value
    out_values[first + kept :] = layout.pad_value
    if kept < n and layout.sample:
        chosen = np.empty(n, np.bool_)
        keep(substream(key, SUBSET), ids, n, kept, chosen)
        place = first
        for j in range(n):
            if chosen[j]:
                out_ids[place], out_values[place] = ids[j], values[j]
                place += 1
    else:
        for j in range(kept):
            out_ids[first + j] = ids[j]
            out_values[first + j] = values[j]


@njit(cache=True, nogil=True)
def _first_bad_column(tokens, gene_ids, special_ids):
    largest = 0
    for token in tokens:
        largest = max(largest, token)
    for token in special_ids:
        largest = max(largest, token)
    used = np.zeros(largest + 1, np.bool_)
    for token in special_ids:
        used[token] = True
    for column in range(tokens.size):
        token = tokens[column]
        if token < -1 or token != gene_ids[column] or (token >= 0 and used[token]):
            return column
        if token >= 0:
            used[token] = True
    return -1


def tokens_of_columns(gene_ids: np.ndarray, special_ids: tuple[int, ...]) -> np.ndarray:
    """Token ids of columns, checked: the form that kernels read.

    Args:
        gene_ids: (columns,) integers, -1 = column not used.
        special_ids: ids that are no genes.

    Returns:
        (columns,) int32.

    Raises:
        ExpressionError: an id is not an integer, below -1, used by two columns, or that of a special token.
    """
    gene_ids = np.asarray(gene_ids)
    if gene_ids.ndim != 1 or gene_ids.dtype.kind not in "iu":
        raise ExpressionError(
            f"Gene ids are integers, one a column, got {gene_ids.dtype} with shape {gene_ids.shape}: "
            "take `gene_ids` of the result of `map_genes`."
        )
    tokens = gene_ids.astype(np.int32)
    column = _first_bad_column(tokens, gene_ids, np.array(special_ids, np.int32))
    if column >= 0:
        raise ExpressionError(
            f"Column {column} has the gene id {gene_ids[column]}, which is no id, that of a special token, or already "
            "used by another column: take `gene_ids` of the result of `map_genes`."
        )
    return tokens


def run(kernel: Callable, n_cells: int, num_threads: int, *arguments) -> None:
    """Call `kernel(*arguments, start, stop)` over all cells, in `num_threads` pieces side by side.

    Threads instead of numba's own parallel loops: those abort a process that was forked after their first use, as
    the workers of a data loader are.
    """
    bounds = np.linspace(0, n_cells, max(1, min(num_threads, n_cells)) + 1).astype(np.int64)
    pieces = list(pairwise(bounds))
    if len(pieces) == 1:
        kernel(*arguments, *pieces[0])
        return
    with ThreadPoolExecutor(len(pieces)) as pool:
        for done in [pool.submit(kernel, *arguments, start, stop) for start, stop in pieces]:
            done.result()
