"""Windows of an epoch: read once, put in order, encoded into batches."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from ..errors import ConfigurationError, SclmError
from ..tokenization.encodings.cells import Rows
from ..tokenization.processing_cell import ARRAYS, PreparedCells
from .packing import Allocate, Packed, allocate, flat_sizes, unpack
from .plan import Schedule, cell_ids
from .soundness import check_indices
from .token_budget import TokenSchedule

if TYPE_CHECKING:
    from .cell_corpus import CellCorpus

Batch = dict[str, np.ndarray]

# Cells that are read and checked together: few enough that what is read is still in the cache when it is looked at.
_CELLS_AT_ONCE = 512

# Batches that are encoded together where they are handed on one by one.
_BATCHES_AT_ONCE = 8


class Window(NamedTuple):
    """The cells of a window, in the order of their sources and rows.

    Attributes:
        panels: the cells, read and checked, some in each.
        panel: (cells,) which panel a cell is in.
        place: (cells,) which cell of its panel.
        lengths: (cells,) tokens of each cell.
        ids: (cells,) uint64 cell ids.
        source: (cells,) number of the source.
        source_row: (cells,) row in the source.
        columns: what a batch carries along, (cells,) each.
    """

    panels: list[PreparedCells]
    panel: np.ndarray
    place: np.ndarray
    lengths: np.ndarray
    ids: np.ndarray
    source: np.ndarray
    source_row: np.ndarray
    columns: dict[str, np.ndarray]


class WindowReader:
    """Makes the batches of any window of an epoch that a rank reads.

    Args:
        corpus: where the cells come from.
        schedule: the rank's batches.
        epoch: number of the epoch.
    """

    def __init__(self, corpus: "CellCorpus", schedule: Schedule | TokenSchedule, epoch: int) -> None:
        self._corpus, self._schedule = corpus, schedule
        self._max_tokens = schedule.max_tokens if isinstance(schedule, TokenSchedule) else None
        self._keys = {"seed": corpus.seed, "epoch": epoch}
        self._plan = corpus.plan(schedule.window_size, epoch)
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: dict[int, Future] = {}

    def batches(self, number: int) -> Iterator[Batch]:
        """The rank's batches of window `number`, in order; `{}` where it has none and other ranks have."""
        if not self._schedule.reads(number):
            return
        window = self._read(number)
        cells = self._arranged(number, window)
        for start in range(0, len(cells), _BATCHES_AT_ONCE):
            yield from unpack(self._encode(window, cells[start : start + _BATCHES_AT_ONCE], allocate))

    def packed(self, number: int, following: int | None = None, allocate: Allocate = allocate) -> Packed:
        """The rank's batches of window `number`, encoded in one go.

        Args:
            number: number of the window.
            following: the window that will be asked for next, if any; it is read meanwhile.
            allocate: makes the arrays.
        """
        if not self._schedule.reads(number):
            return Packed({}, [])
        window = self._ahead.pop(number).result() if number in self._ahead else self._read(number)
        self._ahead.clear()
        if following is not None and self._schedule.reads(following):
            self._ahead[following] = self._start_reading(following)
        return self._encode(window, self._arranged(number, window), allocate)

    def _start_reading(self, number: int) -> Future:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "sclm-read-ahead")
        return self._thread.submit(self._read, number)

    def _arranged(self, number: int, window: Window) -> list[np.ndarray]:
        """The rank's batches of a window, as positions of cells."""
        if self._max_tokens:
            self._check_budget(window, window.lengths)
        how = {"grouped": self._corpus.group_by_length, "shuffle": self._corpus.shuffle, **self._keys}
        return self._schedule.batches(number, window.ids, window.lengths, **how)

    def _read(self, number: int) -> Window:
        positions: dict[int, list[np.ndarray]] = {}
        for source, start, stop in self._plan.window(number):
            positions.setdefault(source, []).append(np.arange(start, stop))
        used = {source: np.concatenate(parts) for source, parts in positions.items()}
        rows = {source: self._corpus.rows_at(source, at) for source, at in used.items()}
        panels = [panel for source, wanted in rows.items() for panel in self._panels(source, wanted)]
        sizes = [len(panel.lengths) for panel in panels]
        return Window(
            panels=panels,
            panel=np.repeat(np.arange(len(panels)), sizes),
            place=np.concatenate([np.arange(size) for size in sizes]),
            lengths=np.concatenate([panel.lengths for panel in panels]),
            source=np.repeat(list(used), [len(wanted) for wanted in rows.values()]),
            source_row=np.concatenate(list(rows.values())),
            **self._carried(used, rows),
        )

    def _panels(self, source: int, rows: np.ndarray) -> Iterator[PreparedCells]:
        """Cells of a source, read and checked."""
        gene_ids, name = self._corpus.gene_ids(source), self._corpus.sources[source].name
        for start in range(0, len(rows), _CELLS_AT_ONCE):
            wanted = rows[start : start + _CELLS_AT_ONCE]
            matrix = self._corpus.opened(source).read(wanted)
            check_indices(matrix, self._corpus.sources[source], wanted)
            ids = cell_ids(name, wanted)
            try:
                yield self._prepared(matrix, gene_ids, ids)
            except SclmError as error:
                raise self._located(error, source, wanted, (matrix, gene_ids, ids)) from error

    def _prepared(
        self, matrix: csr_matrix, gene_ids: np.ndarray, ids: np.ndarray, rows: np.ndarray | None = None
    ) -> PreparedCells:
        how = {"cell_ids": ids, "rows": rows, "check": False, **self._keys}
        return self._corpus.processor.prepare(matrix, gene_ids, **how)

    def _carried(self, used: dict[int, np.ndarray], rows: dict[int, np.ndarray]) -> dict:
        """Ids and columns of cells; `used` is source -> positions among the cells used of it."""
        names = [source.name for source in self._corpus.sources]
        ids = np.concatenate([cell_ids(names[source], rows[source]) for source in used])
        columns = {"cell_ids": ids.view(np.int64)}
        for name, codes in self._corpus.numbered.items():
            columns[name] = np.concatenate([codes[source][at] for source, at in used.items()]).astype(np.int64)
        return {"ids": ids, "columns": columns}

    def _check_budget(self, window: Window, lengths: np.ndarray) -> None:
        """Refuse a cell that no batch can hold."""
        longest = int(np.argmax(lengths))
        if lengths[longest] > self._max_tokens:
            raise ConfigurationError(
                f"{self._place(window, longest)}: this cell has {lengths[longest]} tokens, more than "
                f"`max_tokens_per_batch` {self._max_tokens}: raise it, or give the encoding a `max_length`."
            )

    def _encode(self, window: Window, batches: list[np.ndarray], allocate: Allocate) -> Packed:
        """Batches, given as positions of cells, each padded to its longest cell."""
        names = self._corpus.processor.model_input_names
        counts = [len(cells) for cells in batches]
        widths = [int(window.lengths[cells].max(initial=0)) for cells in batches]
        shapes = [
            dict.fromkeys(names, (count, width)) | dict.fromkeys(window.columns, (count,)) if count else {}
            for count, width in zip(counts, widths, strict=True)
        ]
        types = {name: ARRAYS[name] for name in names} | dict.fromkeys(window.columns, np.int64)
        flat = allocate({name: (types[name], size) for name, size in flat_sizes(shapes).items()})
        cells = np.concatenate([*batches, np.empty(0, np.int64)])
        width_of = np.repeat(widths, counts).astype(np.int64)
        starts = np.cumsum(width_of) - width_of
        for number in np.unique(window.panel[cells]):
            there = np.flatnonzero(window.panel[cells] == number)
            rows = Rows(window.place[cells[there]], starts[there], width_of[there])
            self._corpus.processor.write(window.panels[number], rows, flat)
        for name, values in window.columns.items():
            if name in flat:
                flat[name][:] = values[cells]
        return Packed(flat, shapes)

    def _located(self, error: SclmError, source: int, rows: np.ndarray, cells: tuple) -> SclmError:
        """The same error with the file and row of the first cell that causes it, or else with the file."""
        matrix, gene_ids, ids = cells
        location = self._corpus.sources[source].location
        for place, row in enumerate(rows):
            try:
                self._prepared(matrix, gene_ids, ids[[place]], np.array([place]))
            except SclmError as found:
                return type(found)(f"`{location}`, row {row} (counted from 0): {found}")
        return type(error)(f"`{location}`: {error}")

    def _place(self, window: Window, cell: int) -> str:
        """File and row of a cell."""
        location = self._corpus.sources[window.source[cell]].location
        return f"`{location}`, row {window.source_row[cell]} (counted from 0)"
