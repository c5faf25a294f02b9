"""What every encoding does around its kernel: take the known genes of CSR rows, keep what fits, write tokens, pad."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import njit

from ...errors import ExpressionError
from .kernels import kernel, part
from .keys import Stream, draw, substream
from .masks import smallest
from .scratch import Scratch, lent

OUT_OF_RANGE, UNSORTED, NEGATIVE, NOT_FINITE = 1, 2, 4, 8
"""What [`survey`] may find wrong with a row; the numbers add up."""


class Columns(NamedTuple):
    """The columns of a matrix, seen through the model's vocabulary: see [`columns_of`].

    Attributes:
        tokens: (columns,) int32, token id of each column, -1 = column not used; columns of one id are added up.
        known: (genes,) int32, the token ids among them, ascending and each once.
        ascending: whether the ids of the columns used ascend, each being there once.
        doubled: whether several columns have one id.
    """

    tokens: np.ndarray
    known: np.ndarray
    ascending: bool
    doubled: bool


class Cells(NamedTuple):
    """Rows of a CSR matrix, seen through the model's vocabulary.

    Attributes:
        indptr, indices, data: the arrays of the CSR matrix.
        rows: (cells,) int64, the rows that are meant, in the order wanted.
        tokens: (columns,) int32, token id of each column, -1 = column not used; columns of one id are added up.
        sort: put the genes of each cell in the order of their ids and add up those of one: needed unless the ids of
            the columns ascend. Without it they stay in the order of the columns.
    """

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    rows: np.ndarray
    tokens: np.ndarray
    sort: bool = False


class CellGenes(NamedTuple):
    """The expressed genes of cells that the vocabulary knows, one cell after the other: what encodings work on.

    Attributes:
        indptr: (cells + 1,) int64, where each cell's genes begin.
        ids: (genes,) int32 token ids, ascending within a cell, or in column order.
        values: (genes,) their values, float32 or float64.
        totals: (cells,) float64, sum of each cell's row, unknown genes included.
        columns: (genes,) int32 token ids of all columns that the vocabulary knows, ascending or in column order.
    """

    indptr: np.ndarray
    ids: np.ndarray
    values: np.ndarray
    totals: np.ndarray
    columns: np.ndarray


class CellTokens(NamedTuple):
    """Encoded cells without padding: what encodings fill and [`pad`] turns into a batch.

    Attributes:
        ids: (tokens,) int32 token ids.
        values: (tokens,) float32, what goes with each; of no entries where the encoding has no values.
        starts: (cells,) int64, where each cell begins in both.
        lengths: (cells,) int64, how many tokens it has.
    """

    ids: np.ndarray
    values: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


class Layout(NamedTuple):
    """How a cell's tokens stand in a row: `<cls>`, genes in the order of their ids, `<eos>`, padding.

    Attributes:
        cls_id, eos_id, pad_id: token ids; -1 = no such token.
        cls_value, pad_value: the values that go with `<cls>` and with `<eos>` and padding.
        max_genes: how many genes fit.
        sample: keep a keyed random subset of a longer cell instead of its first genes.
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
    """What [`survey`] found, one entry per cell.

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


@part
def _indices_problems(indices, n_columns):
    ascending = True
    inside = True
    for j in range(indices.size):
        inside &= (indices[j] >= 0) & (indices[j] < n_columns)
    for j in range(1, indices.size):
        ascending &= indices[j - 1] < indices[j]
    return (0 if inside else OUT_OF_RANGE) + (0 if ascending else UNSORTED)


@part
def _look_at(cells, i, values, fractional, problems):
    """Fill in what a survey says of the values of cell `i`."""
    start, stop = cells.indptr[cells.rows[i]], cells.indptr[cells.rows[i] + 1]
    data = cells.data[start:stop]
    # narrow counters let the processor look at twice as many values at a time; sums of them are wide
    n_values = n_fractional = n_negative = n_infinite = np.int32(0)
    for j in range(data.size):
        value = data[j]
        n_values = np.int32(n_values + (value != 0))
        n_fractional = np.int32(n_fractional + (value != np.floor(value)))
        n_negative = np.int32(n_negative + (value < 0))
        n_infinite = np.int32(n_infinite + (value - value != 0))
    values[i], fractional[i] = n_values, n_fractional
    problems[i] = _indices_problems(cells.indices[start:stop], cells.tokens.size)
    problems[i] += (NEGATIVE if n_negative else 0) + (NOT_FINITE if n_infinite else 0)


@part
def _count_once(cells, i, last_cell):
    """How many genes cell `i` has, each counted once; `last_cell` holds the cell in which each gene was seen last."""
    n_genes = 0
    for j in range(cells.indptr[cells.rows[i]], cells.indptr[cells.rows[i] + 1]):
        token = cells.tokens[cells.indices[j]]
        if token >= 0 and cells.data[j] != 0 and last_cell[token] != i:
            last_cell[token] = i
            n_genes += 1
    return n_genes


@kernel
def _survey(cells, last_cell, genes, values, fractional, problems):
    for i in range(cells.rows.size):
        _look_at(cells, i, values, fractional, problems)
        n_genes = 0
        if not problems[i] & OUT_OF_RANGE:
            if cells.sort:
                n_genes = _count_once(cells, i, last_cell)
            else:
                for j in range(cells.indptr[cells.rows[i]], cells.indptr[cells.rows[i] + 1]):
                    n_genes += (cells.data[j] != 0) & (cells.tokens[cells.indices[j]] >= 0)
        genes[i] = n_genes


def survey(cells: Cells) -> Survey:
    """Count the genes of cells and look for values and indices that no encoding can take."""
    last_cell = np.full(cells.tokens.max(initial=-1) + 1 if cells.sort else 0, -1)
    counts = tuple(np.empty(cells.rows.size, np.int64) for _ in range(4))
    _survey(cells, last_cell, *counts)
    return Survey(cells.rows, *counts)


@part
def _total(data):
    # four sums side by side: one alone waits for each of its additions
    sums = (0.0, 0.0, 0.0, 0.0)
    whole = data.size - data.size % 4
    for j in range(0, whole, 4):
        sums = (sums[0] + data[j], sums[1] + data[j + 1], sums[2] + data[j + 2], sums[3] + data[j + 3])
    total = sums[0] + sums[1] + sums[2] + sums[3]
    for j in range(whole, data.size):
        total += data[j]
    return total


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _total_of_whole(data):
    """Whole numbers add up to the same in any order."""
    total = 0.0
    for j in range(data.size):
        total += data[j]
    return total


@part
def _copy_known(indices, data, tokens, ids, values):
    """Copy the expressed, known genes of a row; returns how many. What lies behind them is overwritten too."""
    unknown = np.int32(0)
    for j in range(indices.size):
        token = tokens[np.uint32(indices[j])]
        ids[j] = token
        unknown |= token
    zeros = np.int32(0)
    for j in range(data.size):
        values[j] = data[j]
        zeros |= np.int32(data[j] == 0)
    if unknown >= 0 and zeros == 0:
        return data.size
    n = 0
    for j in range(data.size):
        known = (ids[j] >= 0) & (values[j] != 0)
        ids[n] = ids[j]
        values[n] = values[j]
        n += known
    return n


@part
def bits_set(word):
    """How many bits of a uint64 are set."""
    # the compiler knows this loop as one instruction
    n = np.uint32(0)
    while word:
        word &= word - np.uint64(1)
        n += np.uint32(1)
    return n


@part
def _mark(ids, n, present, before):
    """Set the bit of each of `n` ids, and count those `before` each word of bits; returns how many different ones."""
    present[:] = 0
    for j in range(n):
        present[np.uint32(ids[j]) >> np.uint32(6)] |= np.uint64(1) << np.uint64(ids[j] & 63)
    n_present = np.uint32(0)
    for word in range(present.size):
        before[word] = n_present
        n_present += bits_set(present[word])
    return n_present


@part
def _place(token, present, before):
    """The number of smaller ids, given the bits of all."""
    word, bit = np.uint32(token) >> np.uint32(6), np.uint64(token & 63)
    return before[word] + bits_set(present[word] & ((np.uint64(1) << bit) - np.uint64(1)))


@part
def _sort_by_id(ids, values, n, present, before, out_ids, out_values):
    """Copy the genes of a cell in the order of their ids, those of one id added up; returns how many are left.

    The place of an id is the number of smaller ones, which bits tell sooner than sorting.
    """
    n_present = _mark(ids, n, present, before)
    if n_present < n:
        out_values[:n_present] = 0
    for j in range(n):
        place = _place(ids[j], present, before)
        out_ids[place] = ids[j]
        out_values[place] = values[j] + (out_values[place] if n_present < n else 0)
    return n_present


@kernel
def take(cells, genes, counts, values, fractional, problems):
    """[`take_genes`] into memory that is given; the last four are what a survey says, (cells,) each."""
    place = size = n_words = 0
    genes.indptr[0] = 0
    if cells.sort:
        n_words = genes.columns[-1] // 64 + 1 if genes.columns.size else 0
        for i in range(cells.rows.size):
            size = max(size, cells.indptr[cells.rows[i] + 1] - cells.indptr[cells.rows[i]])
    present, before = np.empty(n_words, np.uint64), np.empty(n_words, np.uint32)
    known_ids, known_values = np.empty(size, genes.ids.dtype), np.empty(size, genes.values.dtype)
    for i in range(cells.rows.size):
        start, stop = cells.indptr[cells.rows[i]], cells.indptr[cells.rows[i] + 1]
        indices, data = cells.indices[start:stop], cells.data[start:stop]
        _look_at(cells, i, values, fractional, problems)
        counts[i] = 0
        if not problems[i] & OUT_OF_RANGE:
            ids, its_values = genes.ids[place:], genes.values[place:]
            if cells.sort:
                n = _copy_known(indices, data, cells.tokens, known_ids, known_values)
                counts[i] = _sort_by_id(known_ids, known_values, n, present, before, ids, its_values)
            else:
                counts[i] = _copy_known(indices, data, cells.tokens, ids, its_values)
        genes.totals[i] = _total(data) if fractional[i] else _total_of_whole(data)
        place += counts[i]
        genes.indptr[i + 1] = place


def take_genes(
    cells: Cells, scratch: Scratch | None = None, columns: np.ndarray | None = None
) -> tuple[CellGenes, Survey]:
    """Copy what encodings work on, and survey it in the same pass. Rows with problems have no genes worth using.

    Args:
        cells: the cells.
        scratch: memory to work in; the genes are good until it is used again.
        columns: what the genes' `columns` will be, where that is known.
    """
    scratch = scratch or Scratch()
    n = cells.rows.size
    n_entries = int((cells.indptr[cells.rows + 1] - cells.indptr[cells.rows]).sum())
    single = cells.data.dtype.itemsize * (1 if cells.data.dtype.kind == "f" else 2) <= 4
    genes = CellGenes(
        indptr=np.empty(n + 1, np.int64),
        ids=scratch.empty("ids", n_entries, np.int32),
        values=scratch.empty("values", n_entries, np.float32 if single else np.float64),
        totals=np.empty(n),
        columns=_columns_in_order(cells) if columns is None else columns,
    )
    counts = tuple(np.empty(n, np.int64) for _ in range(4))
    take(cells, genes, *counts)
    return genes, Survey(cells.rows, *counts)


def _columns_in_order(cells: Cells) -> np.ndarray:
    return columns_of(cells.tokens).known if cells.sort else cells.tokens[cells.tokens >= 0]


def columns_of(tokens: np.ndarray) -> Columns:
    """Columns in the form that encodings take; worth making once for a data set.

    Args:
        tokens: (columns,) int32 token ids, -1 = column not used; columns of one id are added up.
    """
    used = tokens[tokens >= 0]
    known = np.flatnonzero(np.bincount(used)).astype(np.int32)
    return Columns(tokens, known, bool((used[1:] > used[:-1]).all()), known.size < used.size)


def taken_entries(cells: Cells) -> np.ndarray:
    """Where in the data of the matrix the genes stand that [`take_genes`] copies without sorting them."""
    parts = [np.arange(cells.indptr[row], cells.indptr[row + 1]) for row in cells.rows]
    entries = np.concatenate([*parts, np.empty(0, np.int64)])
    return entries[(cells.tokens[cells.indices[entries]] >= 0) & (cells.data[entries] != 0)]


def widest(genes: CellGenes, start: int, stop: int) -> int:
    """The most genes that one of the cells `start:stop` has; at least 1."""
    return int(np.diff(genes.indptr[start : stop + 1]).max(initial=1))


@part
def _copy_subset(stream_key, ids, values, n, n_kept, out_ids, out_values):
    """Copy the `n_kept` of `n` genes with the smallest draws, in their order."""
    draws = np.empty(n, np.uint64)
    for i in range(n):
        draws[i] = draw(stream_key, ids[i])
    bound = smallest(draws, n_kept, n)
    kept = np.uint32(0)
    for i in range(n):
        # what is not kept is overwritten; behind the last gene there may be no room for it
        if kept < n_kept:
            out_ids[kept] = ids[i]
            out_values[kept] = values[i]
        kept += np.uint32(draws[i] < bound)


@part
def write_ids(layout, n, out_ids):
    """Write what surrounds `n` genes in a cell's ids; returns where the genes begin."""
    first = 0
    if layout.cls_id >= 0:
        out_ids[0] = layout.cls_id
        first = 1
    if layout.eos_id >= 0:
        out_ids[first + n] = layout.eos_id
    return first


@part
def _with_zeros(columns, ids, values, n):
    """Values of all `columns`, given ids and values of a cell's `n` expressed genes, ascending like them."""
    all_values = np.zeros(columns.size, values.dtype)
    expressed = 0
    for place in range(columns.size):
        if expressed < n and ids[expressed] == columns[place]:
            all_values[place] = values[expressed]
            expressed += 1
    return all_values


@part
def keep_genes(layout, genes, key, ids, values, n, out_ids, out_values):
    """Write a cell's ids, and the values of those of its genes that are kept, each at the place of its gene.

    Arguments as for [`write_cell`].

    Returns:
        Where the genes begin, and how many are kept.
    """
    if layout.zeros:
        ids, values, n = genes.columns, _with_zeros(genes.columns, ids, values, n), genes.columns.size
    kept = min(n, layout.max_genes)
    first = write_ids(layout, kept, out_ids)
    if kept < n and layout.sample:
        _copy_subset(substream(key, Stream.SUBSET), ids, values, n, kept, out_ids[first:], out_values[first:])
    else:
        for j in range(kept):
            out_ids[first + j] = ids[j]
            out_values[first + j] = values[j]
    return first, kept


@part
def write_special_values(layout, first, kept, out_values):
    """Write the values that go with what surrounds the genes of a cell."""
    if layout.cls_id >= 0:
        out_values[0] = layout.cls_value
    if layout.eos_id >= 0:
        out_values[first + kept] = layout.pad_value


@part
def write_cell(layout, genes, key, ids, values, n, out_ids, out_values):
    """Write a cell's tokens: at most `layout.max_genes` of its genes, in their order.

    `ids` and `values` are those of its `n` expressed genes, `genes` the [`CellGenes`] that it is one of.
    """
    first, kept = keep_genes(layout, genes, key, ids, values, n, out_ids, out_values)
    write_special_values(layout, first, kept, out_values)


@kernel
def _pad(ids, values, starts, lengths, width, pad_id, pad_value, out_ids, out_values, out_mask):
    for k in range(starts.size):
        n, start = lengths[k], starts[k]
        row = slice(k * width, (k + 1) * width)
        row_ids, row_mask = out_ids[row], out_mask[row]
        cell_ids = ids[start : start + n]
        for j in range(n):
            row_ids[j] = cell_ids[j]
        row_ids[n:] = pad_id
        row_mask[:n] = 1
        row_mask[n:] = 0
        if out_values.size:
            row_values, cell_values = out_values[row], values[start : start + n]
            for j in range(n):
                row_values[j] = cell_values[j]
            row_values[n:] = pad_value


def pad(
    tokens: CellTokens, cells: np.ndarray, pad_id: int, pad_value: float, *, narrow: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch of cells, padded on the right to the longest.

    Args:
        tokens: encoded cells.
        cells: (batch,) which of them.
        pad_id, pad_value: what padding is.
        narrow: keep the types of the tokens; the mask is uint8 then.

    Returns:
        (batch, tokens) ids (int64), values (float32; of no entries where there are none) and mask (int64, 1 = real).
    """
    starts, lengths = tokens.starts[cells], tokens.lengths[cells]
    n, width = len(cells), int(lengths.max(initial=0))
    size, n_values = n * width, n * width if tokens.values.size else 0
    if narrow:
        ids, mask = np.empty(size, tokens.ids.dtype), np.empty(size, np.uint8)
        values = np.empty(n_values, tokens.values.dtype)
    else:
        ids, mask, values = _side_by_side(size, n_values)
    fills = ids.dtype.type(pad_id), values.dtype.type(pad_value)
    _pad(tokens.ids, tokens.values, starts, lengths, width, *fills, ids, values, mask)
    return ids.reshape(n, width), values.reshape(n, width) if values.size else values, mask.reshape(n, width)


def _side_by_side(size: int, n_values: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Room for ids, mask and values in one piece of memory."""
    room = lent(16 * size + 4 * n_values)
    wide = room[: 16 * size].view(np.int64)
    return wide[:size], wide[size:], room[16 * size :].view(np.float32)


@kernel
def _first_bad_column(tokens, gene_ids, special_ids):
    """The first column whose id is no id or another's; turns `-2 - other` into the id of the column `other`."""
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
        if token != gene_ids[column] or (token >= 0 and used[token]):
            return column
        if token >= 0:
            used[token] = True
    for column in range(tokens.size):
        if gene_ids[column] < -1:
            other = -2 - gene_ids[column]
            if other >= tokens.size or gene_ids[other] < 0:
                return column
            tokens[column] = gene_ids[other]
    return -1


def tokens_of_columns(gene_ids: np.ndarray, special_ids: tuple[int, ...]) -> np.ndarray:
    """Token ids of columns, checked: the form that kernels read.

    Args:
        gene_ids: (columns,) integers, -1 = column not used, `-2 - other` = it is added to column `other`.
        special_ids: ids that are no genes.

    Returns:
        (columns,) int32; columns that are added up have the same.

    Raises:
        ExpressionError: an id is not an integer, used by two columns, or that of a special token, or a column adds to
            one that is not used.
    """
    gene_ids = np.asarray(gene_ids)
    if gene_ids.ndim != 1 or gene_ids.dtype.kind not in "iu":
        raise ExpressionError(
            f"Gene ids are integers, one per column, got {gene_ids.dtype} with shape {gene_ids.shape}: "
            "take `gene_ids` of the result of `map_genes`."
        )
    tokens = gene_ids.astype(np.int32)
    column = _first_bad_column(tokens, gene_ids.astype(np.int64, copy=False), np.array(special_ids, np.int32))
    if column >= 0:
        raise ExpressionError(
            f"Column {column} has the gene id {gene_ids[column]}, which is no id, that of a special token, or already "
            "used by another column: take `gene_ids` of the result of `map_genes`."
        )
    return tokens


def joined(parts: list[CellTokens], places: list[np.ndarray]) -> CellTokens:
    """Encoded cells of several groups as one.

    Args:
        parts: the groups.
        places: (cells,) for each group: where its cells stand in what is returned.
    """
    before = np.cumsum([0, *(part.ids.size for part in parts)])
    order = np.argsort(np.concatenate(places))
    starts = np.concatenate([part.starts + size for part, size in zip(parts, before, strict=False)])
    return CellTokens(
        ids=np.concatenate([part.ids for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        starts=starts[order],
        lengths=np.concatenate([part.lengths for part in parts])[order],
    )


def run(kernel: Callable, n_rows: int, num_threads: int, *arguments) -> None:
    """Call `kernel(*arguments, start, stop)` over all rows, in `num_threads` pieces side by side.

    Threads instead of numba's own parallel loops: those abort a process that was forked after their first use, as
    the workers of a data loader are.
    """
    bounds = np.linspace(0, n_rows, max(1, min(num_threads, n_rows)) + 1).astype(np.int64)
    pieces = list(pairwise(bounds))
    if len(pieces) == 1:
        kernel(*arguments, *pieces[0])
        return
    with ThreadPoolExecutor(len(pieces)) as pool:
        for done in [pool.submit(kernel, *arguments, start, stop) for start, stop in pieces]:
            done.result()
