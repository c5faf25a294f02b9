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
from ...tokenization.encodings.stored import OUT_OF_FILE, StoredRows, copy_rows, gather_rows
from ..order.balance import ids_again
from ..order.plan import Drawn, Schedule, row_ids

if TYPE_CHECKING:
    from ..contents import Contents

_THREADS, _AHEAD = 2, 3

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

    def copy(self, which: np.ndarray, places: np.ndarray, n_genes: int, indices: np.ndarray, data: np.ndarray) -> int:
        """Copy the rows `which` to their places in the arrays of a batch; returns what is wrong with them, or 0."""
        where = self.starts[which], self.lengths[which], places, n_genes, indices, data
        if not isinstance(self.held, StoredRows):
            return copy_rows(self.held.indices, self.held.data, *where)
        files = self.held.indices, self.held.data
        return gather_rows(self.held.file, *(part for one in files for part in (one.offsets, one.chunk_size)), *where)


class MatrixReader:
    """Makes the batches of matrices that a rank reads.

    Rows of uncompressed files are read one by one to where they stand in a batch, others window by window.

    Args:
        corpus: where the cells come from.
        schedule: the rank's batches.
        epoch: number of the epoch.
    """

    def __init__(self, corpus: "Contents", schedule: Schedule, epoch: int) -> None:
        self._corpus, self._schedule, self._epoch = corpus, schedule, epoch
        self._plan = corpus.plan(schedule.window_size, epoch)
        self._genes: list[str] = []
        self._same_genes: set[int] = set()

    def batches(self) -> Iterator[MatrixBatch]:
        """The rank's batches, in order; while one is used, threads read those after it."""
        with ThreadPoolExecutor(_THREADS, "sclm-read") as threads:
            for number in filter(self._schedule.reads, self._schedule.windows()):
                # the files stay open until the last thread is done with them
                with ExitStack() as files:
                    yield from self._of_window(number, files, threads)

    def _of_window(self, number: int, files: ExitStack, threads: ThreadPoolExecutor) -> Iterator[MatrixBatch]:
        used = self._plan.cells(number)
        parts = self._parts({source: cells.positions for source, cells in used.items()}, files)
        sizes = [len(part.rows) for part in parts.values()]
        sources = np.repeat(np.array(list(parts), np.int64), sizes)
        within = np.concatenate([np.arange(size) for size in sizes])
        reading: deque[Future] = deque()
        try:
            for cells in self._order(number, parts, used):
                reading.append(threads.submit(self._batch, parts, sources[cells], within[cells]))
                if len(reading) > _AHEAD:
                    yield reading.popleft().result()
            while reading:
                yield reading.popleft().result()
        finally:
            wait([future for future in reading if not future.cancel()])

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
        """A source, which must have the genes of the others."""
        opened = self._corpus.opened(source)
        if source not in self._same_genes:
            genes = list(opened.genes()[0])
            self._genes = self._genes or genes
            if genes != self._genes:
                first = self._corpus.sources[min(self._same_genes)].location
                raise ConfigurationError(
                    f"`{opened.location}` has other genes than `{first}`, or in another order, so their rows are not "
                    "those of one matrix: give both files the same `var`, or use `batches`, which knows genes by name."
                )
            self._same_genes.add(source)
        return opened

    def _batch(self, parts: dict[int, _Part], sources: np.ndarray, within: np.ndarray) -> MatrixBatch:
        cells = {source: np.flatnonzero(sources == source) for source in np.unique(sources).tolist()}
        rows, indptr = np.empty(len(sources), np.int64), np.zeros(len(sources) + 1, np.int64)
        for source, places in cells.items():
            part, which = parts[source], within[places]
            rows[places], indptr[1 + places] = part.rows[which], part.lengths[which]
        indptr = indptr.cumsum()
        indices, data = (lent(int(indptr[-1]) * kind.itemsize).view(kind) for kind in _common_types(parts))
        for source, places in cells.items():
            wrong = parts[source].copy(within[places], indptr[places], len(self._genes), indices, data)
            if wrong:
                location = self._corpus.sources[source].location
                raise CorpusError(f"`{location}` is damaged: it {_WRONG[wrong]}. Copy or download it again.")
        return MatrixBatch(csr_from_arrays(data, indices, indptr, len(self._genes)), sources, rows)


def _in_file(stored: StoredRows, rows: np.ndarray) -> _Part:
    starts = stored.indptr[rows]
    return _Part(rows, starts, stored.indptr[rows + 1] - starts, stored)


def _in_memory(source: CellSource, rows: np.ndarray) -> _Part:
    # rows of a balanced epoch may come several times, and are read once
    once, places = np.unique(rows, return_inverse=True)
    matrix = source.read(once)
    starts, lengths = matrix.indptr[:-1].astype(np.int64), np.diff(matrix.indptr).astype(np.int64)
    return _Part(rows, starts[places], lengths[places], matrix)


def _common_types(parts: dict[int, _Part]) -> tuple[np.dtype, ...]:
    """Types that hold the indices and the values of all parts."""
    return tuple(np.result_type(*kinds) for kinds in zip(*(part.types for part in parts.values()), strict=True))
