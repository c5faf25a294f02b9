"""Rows as they are stored, in the order of an epoch: for models and baselines that take matrices, not tokens."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from ...errors import ConfigurationError, CorpusError
from ...sources.cell_source import CellSource, csr_from_arrays
from ...tokenization.encodings.cells import OUT_OF_RANGE
from ...tokenization.encodings.scratch import lent
from ...tokenization.encodings.stored import OUT_OF_FILE, StoredRows, copy_rows, open_rows, scatter_rows
from ..order.balance import ids_again
from ..order.plan import Drawn, Schedule, row_ids

if TYPE_CHECKING:
    from ..contents import Contents

_THREADS = 2

_CELLS_AT_ONCE = 512
"""Cells that a thread reads before it takes others."""

_WRONG = {
    OUT_OF_FILE: "ends before the values that its header promises",
    OUT_OF_RANGE: "has column indices beyond `var`",
}


class MatrixBatch(NamedTuple):
    """Cells as they are stored.

    Attributes:
        matrix: (batch, genes) CSR, the stored values.
        sources: (batch,) int64, each cell's source, as a number of the corpus's `sources`.
        rows: (batch,) int64, its row there.
    """

    matrix: csr_matrix
    sources: np.ndarray
    rows: np.ndarray


class _Part(NamedTuple):
    """The rows of one source in a window.

    Attributes:
        rows: (cells,) int64, their numbers.
        starts, lengths: (cells,) int64, where the entries of each begin in `held`, and how many it has.
        held: a matrix in a file, or one in memory that holds these rows.
    """

    rows: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    held: StoredRows | csr_matrix

    @property
    def types(self) -> tuple[np.dtype, np.dtype]:
        """Of indices and values."""
        return self.held.indices.dtype, self.held.data.dtype

    def copy(self, some: slice, places: np.ndarray, n_genes: int, indices: np.ndarray, data: np.ndarray) -> int:
        """Copy `some` rows to where their entries begin in the arrays of a window; returns what is wrong, or 0."""
        starts, lengths = self.starts[some], self.lengths[some]
        if isinstance(self.held, StoredRows):
            return scatter_rows(
                *open_rows(self.held, self.rows[some]), starts, lengths, places, n_genes, indices, data
            )
        return copy_rows(self.held.indices, self.held.data, starts, lengths, places, n_genes, indices, data)


class _Begun(NamedTuple):
    """A window that threads read: its batches, where each begins and its arrays, and what the threads do."""

    cells: list[np.ndarray]
    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    sources: np.ndarray
    rows: np.ndarray
    parts: list[Future]
    files: ExitStack


class SharedGenes:
    """The genes of a corpus whose sources all have the same in the same order; each source is asked once.

    Attributes:
        n_genes: their number; 0 before a source was asked.
    """

    def __init__(self) -> None:
        self.n_genes = 0
        self._genes: list[str] = []
        self._have: dict[str, str] = {}

    def check(self, source: CellSource) -> None:
        """Raise unless a source has the genes of those before it.

        Raises:
            ConfigurationError: it has others, or in another order.
        """
        if source.name in self._have:
            return
        genes = list(source.genes()[0])
        self._genes = self._genes or genes
        self.n_genes = len(self._genes)
        if genes != self._genes:
            raise ConfigurationError(
                f"`{source.location}` has other genes than `{next(iter(self._have.values()))}`, or in another order, "
                "so their rows are not those of one matrix: give both files the same `var`, or use `batches`, which "
                "knows genes by name."
            )
        self._have[source.name] = source.location


class MatrixReader:
    """Makes the batches of matrices that a rank reads.

    The rows of a window are read in the order of the files and put in that of the batches, which are views of it.

    Args:
        corpus: where the cells come from.
        schedule: the rank's batches.
        epoch: number of the epoch.
        genes: what is known of the genes of its sources.
    """

    def __init__(self, corpus: "Contents", schedule: Schedule, epoch: int, genes: SharedGenes) -> None:
        self._corpus, self._schedule, self._epoch = corpus, schedule, epoch
        self._plan = corpus.plan(schedule.window_size, epoch)
        self._genes = genes

    def batches(self) -> Iterator[MatrixBatch]:
        """The rank's batches, in order; while those of a window are used, threads read the next."""
        begun: deque[_Begun] = deque()
        with ThreadPoolExecutor(_THREADS, "sclm-read") as threads:
            try:
                for number in filter(self._schedule.reads, self._schedule.windows()):
                    begun.append(self._begin(number, threads))
                    if len(begun) == 2:
                        yield from self._finish(begun.popleft())
                while begun:
                    yield from self._finish(begun.popleft())
            finally:
                for left in begun:
                    _end(left)

    def _begin(self, number: int, threads: ThreadPoolExecutor) -> _Begun:
        used = self._plan.cells(number)
        with ExitStack() as opened:
            parts = self._parts({source: cells.positions for source, cells in used.items()}, opened)
            files = opened.pop_all()
        lengths, rows = (
            np.concatenate([getattr(part, name) for part in parts.values()]) for name in ("lengths", "rows")
        )
        sources = np.repeat(np.array(list(parts), np.int64), [len(part.rows) for part in parts.values()])
        cells = self._order(number, parts, used)
        order = np.concatenate(cells)
        indptr = np.concatenate([[0], lengths[order].cumsum()])
        # cells of other ranks have no place and are not copied
        places = np.full(len(rows), -1)
        places[order] = indptr[:-1]
        indices, data = _arrays(int(indptr[-1]), *_common_types(parts))
        doing, first = [], 0
        for source, part in parts.items():
            for start in range(0, len(part.rows), _CELLS_AT_ONCE):
                some = slice(start, min(start + _CELLS_AT_ONCE, len(part.rows)))
                mine = places[first + some.start : first + some.stop]
                doing.append(threads.submit(self._copy, source, part, some, mine, indices, data))
            first += len(part.rows)
        return _Begun(cells, indptr, indices, data, sources[order], rows[order], doing, files)

    def _copy(self, source: int, part: _Part, some: slice, places: np.ndarray, *arrays: np.ndarray) -> None:
        if wrong := part.copy(some, places, self._genes.n_genes, *arrays):
            location = self._corpus.sources[source].location
            raise CorpusError(f"`{location}` is damaged: it {_WRONG[wrong]}. Copy or download it again.")

    def _finish(self, begun: _Begun) -> Iterator[MatrixBatch]:
        try:
            for part in begun.parts:
                part.result()
        finally:
            _end(begun)
        start = 0
        for cells in begun.cells:
            stop = start + len(cells)
            first, last = begun.indptr[start], begun.indptr[stop]
            arrays = begun.data[first:last], begun.indices[first:last], begun.indptr[start : stop + 1] - first
            matrix = csr_from_arrays(*arrays, self._genes.n_genes)
            yield MatrixBatch(matrix, begun.sources[start:stop], begun.rows[start:stop])
            start = stop

    def _order(self, number: int, parts: dict[int, _Part], used: dict[int, Drawn]) -> list[np.ndarray]:
        """The cells of each batch, as places among those of the window."""
        names = [source.name for source in self._corpus.sources]
        ids = [ids_again(row_ids(names[source], part.rows), used[source].repeats) for source, part in parts.items()]
        keys = {"seed": self._corpus.seed, "epoch": self._epoch, "shuffle": self._corpus.shuffle}
        return self._schedule.batches(number, np.concatenate(ids), None, grouped=False, **keys)

    def _parts(self, positions: dict[int, np.ndarray], files: ExitStack) -> dict[int, _Part]:
        parts = {}
        for source, places in positions.items():
            rows, opened = self._corpus.rows_at(source, places), self._opened(source)
            stored = files.enter_context(opened.stored_rows())
            parts[source] = _in_memory(opened, rows) if stored is None else _in_file(stored, rows)
        # files are copied as they are: one of another type than the batch is read as a whole
        types = _common_types(parts)
        return {
            source: part if part.types == types else _in_memory(self._opened(source), part.rows)
            for source, part in parts.items()
        }

    def _opened(self, source: int) -> CellSource:
        opened = self._corpus.opened(source)
        self._genes.check(opened)
        return opened


def _end(begun: _Begun) -> None:
    """Close the files of a window when no thread reads them any more."""
    wait([part for part in begun.parts if not part.cancel()])
    begun.files.close()


def _in_file(stored: StoredRows, rows: np.ndarray) -> _Part:
    starts = stored.indptr[rows]
    return _Part(rows, starts, stored.indptr[rows + 1] - starts, stored)


def _in_memory(source: CellSource, rows: np.ndarray) -> _Part:
    # rows of a balanced epoch may come several times, and are read once
    once, places = np.unique(rows, return_inverse=True)
    matrix = source.read(once)
    starts, lengths = matrix.indptr[:-1].astype(np.int64), np.diff(matrix.indptr).astype(np.int64)
    return _Part(rows, starts[places], lengths[places], matrix)


def _arrays(size: int, index_type: np.dtype, value_type: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Indices and values of so many entries, side by side in memory that comes back as a whole."""
    room = lent(size * (index_type.itemsize + value_type.itemsize))
    # the larger type first, so that both begin where their type may
    larger, smaller = sorted((index_type, value_type), key=lambda kind: -kind.itemsize)
    split = size * larger.itemsize
    first, second = room[:split].view(larger), room[split:].view(smaller)
    return (first, second) if larger is index_type else (second, first)


def _common_types(parts: dict[int, _Part]) -> tuple[np.dtype, ...]:
    """Types that hold the indices and the values of all parts."""
    return tuple(np.result_type(*kinds) for kinds in zip(*(part.types for part in parts.values()), strict=True))
