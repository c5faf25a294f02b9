"""Windows of an epoch: read, put in order, encoded batch by batch."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from ..errors import ConfigurationError, SclmError
from .plan import EpochPlan, Schedule, cell_ids
from .sources import csr_from_arrays
from .token_budget import TokenSchedule

if TYPE_CHECKING:
    from .cell_corpus import CellCorpus

Batch = dict[str, np.ndarray]


class Panel(NamedTuple):
    """Cells whose genes have the same ids, in one matrix."""

    matrix: csr_matrix
    gene_ids: np.ndarray


class Window(NamedTuple):
    """The cells of a window, in the order of their sources and rows.

    Attributes:
        panels: the matrices that hold them.
        panel: (cells,) which panel a cell is in.
        row: (cells,) which row of its matrix.
        ids: (cells,) uint64 cell ids.
        source: (cells,) number of the source.
        source_row: (cells,) row in the source.
        columns: what a batch carries along, (cells,) each.
    """

    panels: list[Panel]
    panel: np.ndarray
    row: np.ndarray
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
        names = [source.name for source in corpus.sources]
        sizes = {"block_size": corpus.block_size, "window_size": schedule.window_size}
        self._plan = EpochPlan(names, corpus.sizes, shuffle=corpus.shuffle, **sizes, **self._keys)

    def batches(self, number: int) -> Iterator[Batch]:
        """The rank's batches of window `number`, in order; `{}` where it has none and other ranks have."""
        if not self._schedule.reads(number):
            return
        window, grouped = self._read(number), self._corpus.group_by_length
        lengths = self._lengths(window) if grouped or self._max_tokens else None
        if self._max_tokens:
            self._check_budget(window, lengths)
        how = {"grouped": grouped, "shuffle": self._corpus.shuffle, **self._keys}
        for cells in self._schedule.batches(number, window.ids, lengths, **how):
            yield self._encode(window, cells) if len(cells) else {}

    def _read(self, number: int) -> Window:
        positions: dict[int, list[np.ndarray]] = {}
        for source, start, stop in self._plan.window(number):
            positions.setdefault(source, []).append(np.arange(start, stop))
        used = {source: np.concatenate(parts) for source, parts in positions.items()}
        rows = {source: self._corpus.rows_at(source, at) for source, at in used.items()}
        panels, panel_of, first_row = self._panels(rows)
        counts = [len(positions) for positions in used.values()]
        return Window(
            panels=panels,
            panel=np.repeat([panel_of[source] for source in used], counts),
            row=np.concatenate([first_row[source] + np.arange(len(rows[source])) for source in used]),
            source=np.repeat(list(used), counts),
            source_row=np.concatenate(list(rows.values())),
            **self._carried(used, rows),
        )

    def _panels(self, rows: dict[int, np.ndarray]) -> tuple[list[Panel], dict[int, int], dict[int, int]]:
        """Read rows (source -> rows); also for each source the number of its panel and the first of its rows there."""
        members: dict[tuple, list[csr_matrix]] = {}
        genes, panel_of, first_row = [], {}, {}
        for source, wanted in rows.items():
            gene_ids = self._corpus.gene_ids(source)
            matrix = self._corpus.opened(source).read(wanted)
            # What is one panel must have one type: stacking would change values otherwise.
            key = (id(gene_ids), matrix.dtype, matrix.indices.dtype)
            if key not in members:
                members[key] = []
                genes.append(gene_ids)
            panel_of[source] = list(members).index(key)
            first_row[source] = sum(other.shape[0] for other in members[key])
            members[key].append(matrix)
        matrices = [_stacked(found) for found in members.values()]
        return [Panel(*pair) for pair in zip(matrices, genes, strict=True)], panel_of, first_row

    def _carried(self, used: dict[int, np.ndarray], rows: dict[int, np.ndarray]) -> dict:
        """Ids and columns of cells; `used` is source -> positions among the cells used of it."""
        names = [source.name for source in self._corpus.sources]
        ids = np.concatenate([cell_ids(names[source], rows[source]) for source in used])
        columns = {"cell_ids": ids.view(np.int64)}
        for name, codes in self._corpus.numbered.items():
            columns[name] = np.concatenate([codes[source][at] for source, at in used.items()]).astype(np.int64)
        return {"ids": ids, "columns": columns}

    def _lengths(self, window: Window) -> np.ndarray:
        """(cells,) tokens of each cell."""
        try:
            lengths = [self._corpus.processor.lengths(*panel) for panel in window.panels]
        except SclmError as error:
            raise self._located(error, window, np.arange(len(window.ids))) from error
        begins = np.cumsum([0, *map(len, lengths)])
        return np.concatenate(lengths)[begins[window.panel] + window.row]

    def _check_budget(self, window: Window, lengths: np.ndarray) -> None:
        """Refuse a cell that no batch can hold."""
        longest = int(np.argmax(lengths))
        if lengths[longest] > self._max_tokens:
            raise ConfigurationError(
                f"{self._place(window, longest)}: this cell has {lengths[longest]} tokens, more than "
                f"`max_tokens_per_batch` {self._max_tokens}: raise it, or give the encoding a `max_length`."
            )

    def _encode(self, window: Window, cells: np.ndarray) -> Batch:
        try:
            batch = self._encoded(window, cells)
        except SclmError as error:
            raise self._located(error, window, cells) from error
        return {**batch, **{name: values[cells] for name, values in window.columns.items()}}

    def _encoded(self, window: Window, cells: np.ndarray) -> Batch:
        """The processor's arrays; cells of different panels are encoded apart and put into one batch."""
        parts, places = [], []
        for number in np.unique(window.panel[cells]):
            place = np.flatnonzero(window.panel[cells] == number)
            ids, rows = window.ids[cells[place]], window.row[cells[place]]
            panel = window.panels[number]
            parts.append(self._corpus.processor.encode(*panel, cell_ids=ids, rows=rows, **self._keys))
            places.append(place)
        if len(parts) == 1:
            return parts[0]
        batch = {}
        for name, pad in self._pads(parts[0]).items():
            batch[name] = np.full((len(cells), max(part[name].shape[1] for part in parts)), pad, parts[0][name].dtype)
            for part, place in zip(parts, places, strict=True):
                batch[name][place, : part[name].shape[1]] = part[name]
        return batch

    def _pads(self, batch: Batch) -> dict[str, float]:
        """What each array of the processor is padded with."""
        processor = self._corpus.processor
        known = {
            "input_ids": processor.tokenizer.pad_token_id,
            "expression_values": processor.feature_extractor.pad_value,
        }
        return {name: known.get(name, 0) for name in batch}

    def _located(self, error: SclmError, window: Window, cells: np.ndarray) -> SclmError:
        """The same error with the file and row of the first of `cells` that causes it, or else with the files."""
        for cell in cells:
            try:
                self._encoded(window, np.array([cell]))
            except SclmError as found:
                return type(found)(f"{self._place(window, cell)}: {found}")
        sources = [self._corpus.sources[source] for source in np.unique(window.source[cells])[:5]]
        files = ", ".join(f"`{source.location}`" for source in sources)
        return type(error)(f"{files}: {error}")

    def _place(self, window: Window, cell: int) -> str:
        """File and row of a cell."""
        location = self._corpus.sources[window.source[cell]].location
        return f"`{location}`, row {window.source_row[cell]} (counted from 0)"


def _stacked(matrices: list[csr_matrix]) -> csr_matrix:
    if len(matrices) == 1:
        return matrices[0]
    data = np.concatenate([matrix.data for matrix in matrices])
    indices = np.concatenate([matrix.indices for matrix in matrices])
    counts = np.concatenate([np.diff(matrix.indptr) for matrix in matrices])
    indptr = np.concatenate([[0], counts.cumsum(dtype=np.int64)])
    return csr_from_arrays(data, indices, indptr, matrices[0].shape[1])
