"""Windows of an epoch: read once, encoded, put in order and cut into batches."""

import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from ...errors import ConfigurationError
from ...sources.soundness import cells_named, check_rows
from ...tokenization.encodings.cells import CellTokens
from ...tokenization.encodings.scratch import Scratch
from ..order.balance import ids_again
from ..order.plan import Drawn, Schedule, row_ids
from ..order.token_budget import TokenSchedule
from .augmenter import Augmenter
from .token_buffer import TokenBuffer

if TYPE_CHECKING:
    from ...tokenization.encodings.encoding import Setting
    from ...tokenization.processing_cell import CellProcessor
    from ..contents import Contents

Batch = dict[str, np.ndarray]

# cells that are read and encoded together: many enough for what is done once for them, few enough for two threads
_CELLS_AT_ONCE = 512

_THREADS = 2


class Window(NamedTuple):
    """The encoded cells of a window and a rank's batches of them.

    Attributes:
        tokens: the cells, in memory that is filled again for a later window.
        columns: what a batch carries along, (cells,) each.
        batches: (batch,) each, the cells of a batch; of no entries where other ranks have a batch and this one not.
    """

    tokens: CellTokens
    columns: dict[str, np.ndarray]
    batches: list[np.ndarray]

    def padded(self, processor: "CellProcessor", *, narrow: bool = False) -> Iterator[Batch]:
        """The batches, in memory of their own; `{}` for one of no cells.

        Args:
            processor: pads them.
            narrow: leave tokens in their narrow types.
        """
        for cells in self.batches:
            carried = {name: values[cells] for name, values in self.columns.items()}
            yield {**processor.padded(self.tokens, cells, narrow=narrow), **carried} if len(cells) else {}


class _Cells(NamedTuple):
    """Cells of a window that are read together: `places` in the window, ascending `rows` of the source, some of which
    may come again; `repeats`, how often each came before in the epoch (None = never)."""

    source: int
    rows: np.ndarray
    places: slice
    repeats: np.ndarray | None


class _Begun(NamedTuple):
    """A window that threads encode.

    Attributes:
        number: its number.
        used: source -> its cells.
        rows: source -> rows of its cells.
        ids: (cells,) uint64, which the threads fill in: what cells are keyed by.
        buffer: where the cells are put.
        parts: what the threads do.
    """

    number: int
    used: dict[int, Drawn]
    rows: dict[int, np.ndarray]
    ids: np.ndarray
    buffer: TokenBuffer
    parts: list[Future]


class WindowReader:
    """Makes the batches of any window of an epoch that a rank reads.

    Two threads share the cells of a window; what is made does not depend on which makes what.

    Args:
        corpus: where the cells come from.
        schedule: the rank's batches.
        epoch: number of the epoch.
        empty: makes the memory for tokens, see [`TokenBuffer`].
        n_buffers: how many windows lie in memory at a time. With two, one is used while the next is encoded.
    """

    def __init__(
        self,
        corpus: "Contents",
        schedule: Schedule | TokenSchedule,
        epoch: int,
        *,
        empty: Callable = np.empty,
        n_buffers: int = 2,
    ) -> None:
        self._corpus, self._schedule = corpus, schedule
        self._max_tokens = schedule.max_tokens if isinstance(schedule, TokenSchedule) else None
        self._keys = {"seed": corpus.seed, "epoch": epoch}
        self._plan = corpus.plan(schedule.window_size, epoch)
        self._augmenter = None if corpus.augment is None else Augmenter(corpus, epoch)
        self._empty, self._n_buffers = empty, n_buffers
        self._workplace: _Workplace | None = None
        self._turn = threading.Lock()

    @property
    def epoch(self) -> int:
        """Number of the epoch."""
        return self._keys["epoch"]

    def later(self, epochs: int) -> "WindowReader":
        """A reader of the same windows, `epochs` epochs later."""
        return WindowReader(self._corpus, self._schedule, self.epoch + epochs)

    def batches(self, number: int) -> Iterator[Batch]:
        """The rank's batches of window `number`, in order; `{}` where it has none and other ranks have."""
        return self.window(number).padded(self._corpus.processor)

    def all_batches(self, number: int) -> list[Batch]:
        """As [`batches`], for callers that read windows by turns or from several threads."""
        with self._turn:
            return list(self.batches(number))

    def window(self, number: int) -> Window:
        """Window `number`, encoded."""
        return self._finished(self._begun(number))

    def windows(self, numbers: Iterable[int]) -> Iterator[Window]:
        """Windows one after the other; while one of them is used, the next is read and encoded."""
        begun: deque[_Begun] = deque()
        try:
            for number in numbers:
                begun.append(self._begun(number))
                if len(begun) == 2:
                    yield self._finished(begun.popleft())
            while begun:
                yield self._finished(begun.popleft())
        finally:
            for left in begun:
                _end(left.parts)

    def _begun(self, number: int) -> "_Begun":
        """Window `number`, which threads begin to encode."""
        used = self._plan.cells(number) if self._schedule.reads(number) else {}
        rows = {source: self._corpus.rows_at(source, cells.positions) for source, cells in used.items()}
        ids = np.empty(sum(map(len, rows.values())), np.uint64)
        # a process that was forked has the threads of its parent by name only
        if self._workplace is None or self._workplace.process != os.getpid():
            processor = self._corpus.processor
            buffers = [TokenBuffer(processor.token_types, self._empty) for _ in range(self._n_buffers)]
            self._workplace = _Workplace(buffers, processor.model_setting())
        buffer, submit = self._workplace.next_buffer(len(ids) * self._n_views), self._workplace.threads.submit
        parts = [submit(self._encode, number, part, ids, buffer) for part in _parts(rows, used)]
        return _Begun(number, used, rows, ids, buffer, parts)

    def _finished(self, begun: "_Begun") -> Window:
        """A window that was begun, encoded."""
        try:
            for part in begun.parts:
                part.result()
        finally:
            _end(begun.parts)
        tokens = begun.buffer.tokens
        if not begun.rows:
            return Window(tokens, {}, [])
        # views of a cell stay together
        lengths = tokens.lengths.reshape(self._n_views, -1).max(0)
        if self._max_tokens:
            self._check_budget(lengths, begun.rows)
        names = [source.name for source in self._corpus.sources]
        batches = self._schedule.batches(
            begun.number,
            np.concatenate(
                [
                    ids_again(row_ids(names[source], rows), begun.used[source].repeats)
                    for source, rows in begun.rows.items()
                ]
            ),
            lengths,
            grouped=self._corpus.group_by_length,
            shuffle=self._corpus.shuffle,
            **self._keys,
        )
        starts = np.arange(self._n_views)[:, None] * len(begun.ids)
        batches = [(starts + cells).ravel() for cells in batches]
        return Window(tokens, self._carried(begun.used, begun.ids), batches)

    @property
    def _n_views(self) -> int:
        """How many views of each cell there are, one after the other."""
        return 1 if self._corpus.augment is None else self._corpus.augment.views

    def _encode(self, number: int, part: _Cells, ids: np.ndarray, buffer: TokenBuffer) -> None:
        """Read, check and encode cells, and put them into the window's buffer."""
        corpus, scratch = self._corpus, self._workplace.scratch
        # a source is closed when many others are opened, so no other thread may open any while this one reads
        with self._workplace.reading:
            gene_ids, source = corpus.gene_ids(part.source), corpus.opened(part.source)
            ids[part.places] = ids_again(source.cell_ids(part.rows), part.repeats)
        # files are read row by row, each once
        rows, places = (part.rows, None) if part.repeats is None else np.unique(part.rows, return_inverse=True)
        once = len(rows) == len(part.rows)
        if self._augmenter is None and once and self._encode_stored(part, gene_ids, ids[part.places], buffer):
            return
        with self._workplace.reading:
            matrix = corpus.opened(part.source).read(rows, scratch)
        matrix = matrix if once else matrix[places]
        expects = corpus.processor.feature_extractor.expects
        # whole numbers are counts, and what else may be wrong with rows their encoding refuses
        if self._augmenter is not None or (expects == "counts" and matrix.dtype.kind == "f"):
            check_rows(matrix, source, part.rows, expects)
        if self._augmenter is not None:
            self._encode_views(number, part, matrix, gene_ids, ids, buffer)
            return

        def encode_some(places: np.ndarray) -> CellTokens:
            return self._tokens(matrix, gene_ids, ids[part.places][places], rows=places, scratch=None)

        with cells_named(source, matrix, part.rows, expects, encode_some):
            tokens = self._tokens(matrix, gene_ids, ids[part.places], rows=None, scratch=scratch)
        buffer.put(tokens, part.places)

    def _encode_views(
        self,
        number: int,
        part: _Cells,
        matrix: csr_matrix,
        gene_ids: np.ndarray,
        ids: np.ndarray,
        buffer: TokenBuffer,
    ) -> None:
        """Augment cells, encode them, and put each of their views into the window's buffer."""
        corpus, where = self._corpus, {"source": part.source, "window": number}
        encode = functools.partial(corpus.processor.tokens, check=False, scratch=self._workplace.scratch)

        def views(places: np.ndarray) -> Iterator[CellTokens]:
            return self._augmenter.views(encode, matrix, gene_ids, ids[part.places][places], rows=places, **where)

        expects = corpus.processor.feature_extractor.expects
        with cells_named(corpus.sources[part.source], matrix, part.rows, expects, lambda places: list(views(places))):
            for view, tokens in enumerate(views(np.arange(len(part.rows)))):
                before = view * len(ids)
                buffer.put(tokens, slice(before + part.places.start, before + part.places.stop))

    def _encode_stored(self, part: _Cells, gene_ids: np.ndarray, ids: np.ndarray, buffer: TokenBuffer) -> bool:
        """Encode cells directly from the file into the buffer.

        Returns:
            False where they are compressed, or not sound.
        """
        corpus, processor = self._corpus, self._corpus.processor
        scratch, setting = self._workplace.scratch, self._workplace.setting
        with ExitStack() as stack:
            with self._workplace.reading:
                stored = stack.enter_context(corpus.opened(part.source).stored_rows())
            room = None if stored is None else processor.stored_room(stored, part.rows, gene_ids, setting)
            if room is None:
                return False
            with_values = "expression_values" in processor.model_input_names
            out = stack.enter_context(buffer.room(room, part.places, with_values=with_values))
            return processor.encode_stored(
                stored, part.rows, gene_ids, out, cell_ids=ids, **self._keys, scratch=scratch, setting=setting
            )

    def _tokens(
        self,
        matrix: csr_matrix,
        gene_ids: np.ndarray,
        ids: np.ndarray,
        *,
        rows: np.ndarray | None,
        scratch: Scratch | None,
    ) -> CellTokens:
        return self._corpus.processor.tokens(
            matrix, gene_ids, cell_ids=ids, rows=rows, check=False, scratch=scratch, **self._keys
        )

    def _carried(self, used: dict[int, Drawn], ids: np.ndarray) -> dict[str, np.ndarray]:
        """Ids and columns of cells."""
        columns = {"cell_ids": ids.view(np.int64)}
        for name, codes in self._corpus.numbered.items():
            numbers = [codes[source][cells.positions] for source, cells in used.items()]
            columns[name] = np.concatenate(numbers).astype(np.int64)
        return {name: np.tile(values, self._n_views) for name, values in columns.items()}

    def _check_budget(self, lengths: np.ndarray, rows: dict[int, np.ndarray]) -> None:
        """Refuse a cell that no batch can hold."""
        longest = int(np.argmax(lengths))
        if lengths[longest] > self._max_tokens:
            sources = np.repeat(list(rows), [len(wanted) for wanted in rows.values()])
            location = self._corpus.sources[sources[longest]].location
            row = np.concatenate(list(rows.values()))[longest]
            raise ConfigurationError(
                f"`{location}`, row {row} (counted from 0): this cell has {lengths[longest]} tokens, more than "
                f"`max_tokens_per_batch` {self._max_tokens}: raise it, or give the encoding a `max_length`."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_workplace": None, "_turn": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = {**state, "_turn": threading.Lock()}


class _Workplace:
    """What the threads of one process work with."""

    def __init__(self, buffers: Iterable[TokenBuffer], setting: "Setting") -> None:
        self.process, self.setting = os.getpid(), setting
        self.threads = ThreadPoolExecutor(_THREADS, "sclm-read")
        self.reading = threading.Lock()
        self._own = threading.local()
        self._buffers = deque(buffers)

    def next_buffer(self, n_cells: int) -> TokenBuffer:
        """The buffer unused for longest, empty."""
        self._buffers.rotate()
        self._buffers[0].clear(n_cells)
        return self._buffers[0]

    @property
    def scratch(self) -> Scratch:
        """The memory that this thread works in."""
        if not hasattr(self._own, "scratch"):
            self._own.scratch = Scratch()
        return self._own.scratch


def _end(parts: list[Future]) -> None:
    """After an error nobody may go on reading the files: others may close them, or read them without the lock."""
    for part in parts:
        part.cancel()
    wait(parts)


def _parts(rows: dict[int, np.ndarray], used: dict[int, Drawn]) -> Iterator[_Cells]:
    place = 0
    for source, wanted in rows.items():
        repeats = used[source].repeats
        for start in range(0, len(wanted), _CELLS_AT_ONCE):
            some = slice(start, start + _CELLS_AT_ONCE)
            n_cells = len(wanted[some])
            again = None if repeats is None else repeats[some]
            yield _Cells(source, wanted[some], slice(place, place + n_cells), again)
            place += n_cells
