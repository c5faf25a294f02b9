"""Cells of many files as one shuffled stream of batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from ..errors import CorpusError, GeneCoverageError, SclmError
from ..logging import warn
from .plan import EpochPlan, Schedule, arrange, cell_ids
from .sources import CellSource, csr_from_arrays, name_paths, open_source, select_rows

if TYPE_CHECKING:
    from ..tokenization.gene_vocabulary import GeneCoverage
    from ..tokenization.processing_cell import CellProcessor
    from .loader import CellLoader

COVERAGE_SAMPLE = 256
"""Cells of a source, evenly spread, from which the share of counts covered is estimated."""

# Below the number of files that a process may have open on any common system (macOS: 256).
_MAX_OPEN_FILES = 128


class CellCorpus:
    """Cells of one or many .h5ad files, streamed in an order that seed and epoch decide.

    Every epoch hands out every cell once. The order does not depend on the order of the files, on workers or on ranks,
    so an epoch can be resumed after any batch with another number of them. Memory does not grow with the corpus, apart
    from labels (1 or 2 bytes a cell) and `rows`. What is random about a cell is keyed by its source's name and row.

    Args:
        paths: a file, a folder, a sequence of both, or a mapping source name -> file. Without a mapping, a source is
            named after its file.
        processor: turns cells into model inputs; its vocabulary decides which genes are used.
        layer: `"X"`, `"raw"` or the name of a layer; by default counts are looked for in `layers["counts"]`, `raw` and
            `X`, in this order (encodings that expect normalised values: `X`).
        label_column: column of `obs` that becomes `labels`, numbers of [`label_names`].
        label_names: the labels in the order of their numbers; by default those of the cells used, sorted.
        batch_column: column of `obs` that becomes `batch_labels`, numbers of [`batch_names`].
        batch_names: as `label_names`.
        species: `"human"`, or `"mouse"` to map genes through orthologs.
        rows: source name or path -> row numbers or mask, for a part of the cells of some sources.
        seed: seed of the order and of everything random about cells.
        block_size: cells that are read together and always come in one window or two neighbouring ones.
        window_size: cells among which the order is fully random; about 15 kB of memory each for 1,700 expressed genes.
        group_size: cells of similar length that come one after the other. The order of cells is the same for all batch
            sizes that divide it.
        shuffle: False = the cells in the order of source names and rows.
        group_by_length: put cells of similar length together; None = when shuffling. Without shuffling, the cells of a
            window come in the order of their lengths.

    Raises:
        CorpusError: a file is missing, damaged, empty or lacks a column; two sources share a name; a cell used has no
            label or one that is not in `label_names`.

    Example:
        >>> corpus = CellCorpus("atlas/", processor, label_column="cell_type")
        >>> for batch in corpus.loader(64, num_workers=2, epoch=0):
        ...     loss = model(**batch).loss
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path] | Mapping[str, str | Path],
        processor: "CellProcessor",
        *,
        layer: str | None = None,
        label_column: str | None = None,
        label_names: Sequence[str] | None = None,
        batch_column: str | None = None,
        batch_names: Sequence[str] | None = None,
        species: str = "human",
        rows: Mapping[str | Path, Any] | None = None,
        seed: int = 0,
        block_size: int = 32,
        window_size: int = 4096,
        group_size: int = 64,
        shuffle: bool = True,
        group_by_length: bool | None = None,
    ) -> None:
        named = dict(sorted(name_paths(paths).items()))
        expects = getattr(processor.feature_extractor, "expects", "counts")
        self.processor, self.species, self.seed, self.shuffle = processor, species, seed, shuffle
        self.block_size, self.window_size, self.group_size = block_size, window_size, group_size
        self.group_by_length = shuffle if group_by_length is None else group_by_length
        self.sources = [open_source(name, path, layer=layer, expects=expects) for name, path in named.items()]
        self._genes: dict[int, tuple[np.ndarray, GeneCoverage]] = {}
        self._recent: dict[int, None] = {}
        self._rows = select_rows(rows, named, self.sources)
        self._sizes = [
            source.n_cells if used is None else len(used)
            for source, used in zip(self.sources, self._rows, strict=True)
        ]
        if not len(self):
            raise CorpusError("`rows` leaves no cell in the corpus.")
        self.label_names, self._labels = self._numbered(label_column, label_names)
        self.batch_names, self._batch_labels = self._numbered(batch_column, batch_names)

    def __len__(self) -> int:
        """Number of cells."""
        return sum(self._sizes)

    @property
    def coverage(self) -> "dict[str, GeneCoverage]":
        """Source name -> what became of its genes. Opens every source that has not been read yet.

        The share of counts is an estimate from [`COVERAGE_SAMPLE`] cells of the source.

        Raises:
            GeneCoverageError: the model knows less than 30 % of the counts of a source; the message names it.
        """
        return {source.name: self._mapped(index)[1] for index, source in enumerate(self.sources)}

    def schedule(self, batch_size: int, **kwargs: Any) -> Schedule:
        """The batches that a rank reads; arguments as for [`batches`]. Its `numbers` has their count as `len`."""
        sizes = {"group_size": self.group_size, "window_size": self.window_size}
        return Schedule.make(len(self), batch_size, **sizes, **kwargs)

    def batches(
        self,
        batch_size: int,
        *,
        epoch: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Stream an epoch, or the rest of it.

        The epoch is one sequence of batches; of every `world_size` consecutive ones rank r takes the r-th. Resuming
        reads the window in which `start` lies again and nothing before it.

        Args:
            batch_size: cells of a batch; only the last one of the epoch may be smaller.
            epoch: number of the epoch.
            start: cells of the epoch that all ranks together have handed out already.
            rank: number of this process.
            world_size: number of processes.
            drop_last: leave out the end of the epoch that does not give every rank a full batch.

        Yields:
            The processor's arrays, padded to the longest cell of the batch, `cell_ids` (batch,) (uint64 stored as
            int64), and `labels` and `batch_labels` (batch,) int64 when their columns were named.

        Raises:
            ConfigurationError: `start`, `rank` or a size is impossible.
            CorpusError: a file vanished, changed or is damaged.
            GeneCoverageError: the model knows less than 30 % of the counts of a source.
            ExpressionError: a cell's values are not what the encoding takes; the message names file and row.
        """
        schedule = self.schedule(batch_size, start=start, rank=rank, world_size=world_size, drop_last=drop_last)
        plan = self.plan(schedule, epoch)
        for window in schedule.windows():
            yield from self.window_batches(plan, schedule, window, epoch)

    def loader(
        self, batch_size: int, *, collator: Callable | None = None, num_workers: int = 0, epoch: int = 0, **kwargs: Any
    ) -> "CellLoader":
        """Batches of torch tensors, read by `num_workers` processes ahead of their use, in the order of [`batches`].

        Args:
            batch_size: cells of a batch.
            collator: called with (batch of arrays, epoch) where the batch is made; returns a dict of tensors.
            num_workers: processes that read and encode; 0 = this one.
            epoch: number of the epoch.
            **kwargs: `start`, `rank`, `world_size`, `drop_last` as for [`batches`].

        Returns:
            An iterable; its `len` is the number of batches.
        """
        from .loader import CellLoader

        return CellLoader(self, batch_size, collator=collator, num_workers=num_workers, epoch=epoch, **kwargs)

    def plan(self, schedule: Schedule, epoch: int) -> EpochPlan:
        names = [source.name for source in self.sources]
        sizes = {"block_size": self.block_size, "window_size": schedule.window_size}
        return EpochPlan(names, self._sizes, seed=self.seed, epoch=epoch, shuffle=self.shuffle, **sizes)

    def window_batches(
        self, plan: EpochPlan, schedule: Schedule, window: int, epoch: int
    ) -> Iterator[dict[str, np.ndarray]]:
        places = schedule.cells(window)
        if not places:
            return
        cells = self._read(plan, window)
        lengths = cells.lengths(self.processor) if self.group_by_length else None
        keys = {"seed": self.seed, "epoch": epoch}
        order = arrange(cells.ids, lengths, group_size=schedule.group_size, shuffle=self.shuffle, **keys)
        for place in places:
            yield self._encode(cells, order[place], keys)

    def _encode(self, cells: "_Cells", chosen: np.ndarray, keys: dict[str, int]) -> dict[str, np.ndarray]:
        parts, places = [], []
        for number, (matrix, gene_ids) in enumerate(cells.panels):
            place = np.flatnonzero(cells.panel[chosen] == number)
            if len(place):
                rows, ids = cells.row[chosen[place]], cells.ids[chosen[place]]
                try:
                    parts.append(self.processor.encode(matrix, gene_ids, cell_ids=ids, rows=rows, **keys))
                except SclmError as error:
                    raise self._located(error, cells, chosen[place], keys) from error
                places.append(place)
        batch = parts[0] if len(parts) == 1 else self._merged(parts, places, len(chosen))
        return {**batch, **{name: values[chosen] for name, values in cells.columns.items()}}

    def _merged(
        self, parts: list[dict[str, np.ndarray]], places: list[np.ndarray], n_cells: int
    ) -> dict[str, np.ndarray]:
        """One batch from cells that were encoded with different genes."""
        extractor = self.processor.feature_extractor
        pads = {"input_ids": self.processor.tokenizer.pad_token_id, "expression_values": extractor.pad_value}
        merged = {}
        for name, first in parts[0].items():
            length = max(part[name].shape[1] for part in parts)
            merged[name] = np.full((n_cells, length), pads.get(name, 0), first.dtype)
            for part, place in zip(parts, places, strict=True):
                merged[name][place, : part[name].shape[1]] = part[name]
        return merged

    def _located(self, error: SclmError, cells: "_Cells", chosen: np.ndarray, keys: dict[str, int]) -> SclmError:
        """The same error about the first of the `chosen` cells that raises it, with its file and row."""
        for cell in chosen:
            matrix, gene_ids = cells.panels[cells.panel[cell]]
            rows, ids = cells.row[[cell]], cells.ids[[cell]]
            try:
                self.processor.encode(matrix, gene_ids, cell_ids=ids, rows=rows, **keys)
            except SclmError as found:
                source = self.sources[cells.source[cell]]
                return type(found)(f"`{source.location}`, row {cells.source_row[cell]} (counted from 0): {found}")
        return error

    def _read(self, plan: EpochPlan, window: int) -> "_Cells":
        """Read the cells of a window, and put those with the same genes into one matrix."""
        stretches: dict[int, list[np.ndarray]] = {}
        for source, start, stop in plan.window(window):
            stretches.setdefault(source, []).append(np.arange(start, stop))
        panels: dict[tuple[int, Any], list[tuple[int, csr_matrix]]] = {}
        used: list[tuple[int, np.ndarray, np.ndarray]] = []
        for source, parts in stretches.items():
            positions = np.concatenate(parts)
            rows = positions if self._rows[source] is None else self._rows[source][positions]
            gene_ids, _ = self._mapped(source)
            matrix = self._opened(source).read(rows)
            panels.setdefault((id(gene_ids), matrix.dtype), []).append((len(used), matrix))
            used.append((source, positions, rows))
        return self._assembled(list(panels.values()), used)

    def _assembled(
        self, panels: list[list[tuple[int, csr_matrix]]], used: list[tuple[int, np.ndarray, np.ndarray]]
    ) -> "_Cells":
        panel_of, row_of = [np.empty(0)] * len(used), [np.empty(0)] * len(used)
        for number, members in enumerate(panels):
            offset = 0
            for place, matrix in members:
                panel_of[place] = np.full(matrix.shape[0], number)
                row_of[place] = np.arange(offset, offset + matrix.shape[0])
                offset += matrix.shape[0]
        genes = [self._mapped(used[members[0][0]][0])[0] for members in panels]
        ids = np.concatenate([cell_ids(self.sources[source].name, rows) for source, _, rows in used])
        columns = {"cell_ids": ids.view(np.int64)}
        for name, codes in (("labels", self._labels), ("batch_labels", self._batch_labels)):
            if codes is not None:
                columns[name] = np.concatenate([codes[source][at] for source, at, _ in used]).astype(np.int64)
        return _Cells(
            panels=[(_stacked([m for _, m in members]), ids) for members, ids in zip(panels, genes, strict=True)],
            panel=np.concatenate(panel_of),
            row=np.concatenate(row_of),
            ids=ids,
            columns=columns,
            source=np.concatenate([np.full(len(rows), source) for source, _, rows in used]),
            source_row=np.concatenate([rows for _, _, rows in used]),
        )

    def _opened(self, index: int) -> CellSource:
        """A source that is about to be read; the one unused for longest is closed when too many are open."""
        self._recent.pop(index, None)
        self._recent[index] = None
        if len(self._recent) > _MAX_OPEN_FILES:
            oldest = next(iter(self._recent))
            del self._recent[oldest]
            self.sources[oldest].close()
        return self.sources[index]

    def _mapped(self, index: int) -> "tuple[np.ndarray, GeneCoverage]":
        """Gene ids and coverage of a source; sources whose genes have the same ids share one array."""
        if index not in self._genes:
            source, rows = self._opened(index), self._rows[index]
            sample = np.unique(np.linspace(0, self._sizes[index] - 1, COVERAGE_SAMPLE).astype(np.int64))
            counts = _column_sums(source.read(sample if rows is None else rows[sample]), source)
            mapping = self.processor.map_genes(
                source.gene_names(), ensembl_ids=source.ensembl_ids(), species=self.species, counts=counts
            )
            _check_coverage(mapping.coverage, source)
            known = (ids for ids, _ in self._genes.values() if np.array_equal(ids, mapping.gene_ids))
            self._genes[index] = (next(known, mapping.gene_ids), mapping.coverage)
        return self._genes[index]

    def _numbered(
        self, column: str | None, names: Sequence[str] | None
    ) -> tuple[list[str] | None, list[np.ndarray] | None]:
        """Names of the categories of a column, and for each source the number of the category of each cell used."""
        if column is None:
            return (None if names is None else list(names)), None
        columns = [self._opened(index).column(column) for index in range(len(self.sources))]
        for index, (found, rows) in enumerate(zip(columns, self._rows, strict=True)):
            columns[index] = replace(found, codes=found.codes if rows is None else found.codes[rows])
            if (columns[index].codes < 0).any():
                raise CorpusError(
                    f"`{self.sources[index].location}`: {(columns[index].codes < 0).sum()} of the cells used have no "
                    f"value in `obs[{column!r}]`: leave them out with `rows=`."
                )
        present = [{found.categories[code] for code in np.unique(found.codes)} for found in columns]
        names = sorted(set().union(*present)) if names is None else [str(name) for name in names]
        numbers = {name: number for number, name in enumerate(names)}
        dtype = np.min_scalar_type(-len(names) - 1)
        codes = []
        for source, found, used in zip(self.sources, columns, present, strict=True):
            if used - set(numbers):
                raise CorpusError(
                    f"`{source.location}`: `obs[{column!r}]` holds {sorted(used - set(numbers))[:10]}, which are not "
                    f"among the {len(names)} names given."
                )
            table = np.array([numbers.get(category, -1) for category in found.categories], dtype)
            codes.append(table[found.codes] if len(table) else np.empty(0, dtype))
        return names, codes


class _Cells(NamedTuple):
    """The cells of a window, in the order of their sources and rows.

    Attributes:
        panels: matrices and the gene ids of their columns.
        panel: (cells,) which matrix a cell is in.
        row: (cells,) which row of it.
        ids: (cells,) uint64 cell ids.
        columns: what a batch carries along, (cells,) each.
        source: (cells,) number of the source.
        source_row: (cells,) row in the source.
    """

    panels: list[tuple[csr_matrix, np.ndarray]]
    panel: np.ndarray
    row: np.ndarray
    ids: np.ndarray
    columns: dict[str, np.ndarray]
    source: np.ndarray
    source_row: np.ndarray

    def lengths(self, processor: "CellProcessor") -> np.ndarray:
        """(cells,) tokens of each cell."""
        lengths = [processor.lengths(matrix, gene_ids) for matrix, gene_ids in self.panels]
        if len(lengths) == 1:
            return lengths[0][self.row]
        return np.array([lengths[panel][row] for panel, row in zip(self.panel, self.row, strict=True)])


def _stacked(matrices: list[csr_matrix]) -> csr_matrix:
    if len(matrices) == 1:
        return matrices[0]
    data = np.concatenate([matrix.data for matrix in matrices])
    indices = np.concatenate([matrix.indices for matrix in matrices])
    counts = np.concatenate([np.diff(matrix.indptr) for matrix in matrices])
    indptr = np.concatenate([[0], counts.cumsum(dtype=np.int64)])
    return csr_from_arrays(data, indices, indptr, matrices[0].shape[1])


def _column_sums(matrix: csr_matrix, source: CellSource) -> np.ndarray | None:
    """Total of each column, or None when there is none to weigh genes by; values that are not finite count as zero."""
    if len(matrix.indices) and not 0 <= matrix.indices.min() <= matrix.indices.max() < source.n_genes:
        raise CorpusError(f"`{source.location}`: column indices go beyond its {source.n_genes} genes: it is damaged.")
    values = np.where(np.isfinite(matrix.data), matrix.data, 0)
    sums = np.bincount(matrix.indices, weights=values, minlength=source.n_genes)
    return sums if sums.sum() > 0 else None


def _check_coverage(coverage: "GeneCoverage", source: CellSource, warn_below: float = 0.60) -> None:
    try:
        coverage.check(warn_below=0.0)
    except GeneCoverageError as error:
        raise GeneCoverageError(f"`{source.location}`: {error}") from error
    if coverage.count_share < warn_below:
        warn(f"`{source.location}`: few genes are known to the model: {coverage.summary()}.")
