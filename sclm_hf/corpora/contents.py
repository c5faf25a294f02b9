"""What a corpus streams: cells of sources, their numbers, their genes as ids, and their order in an epoch."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from ..errors import ConfigurationError, CorpusError
from ..sources.categories import drop_unlabelled, number_categories
from ..sources.cell_source import CellSource
from ..sources.gene_maps import GeneMaps
from ..sources.opening import name_paths, open_source, select_rows
from ..tokenization.encodings.keys import cell_keys
from .filters import filter_rows
from .labels.cell_ontology import open_ontology
from .labels.columns import LabelColumn, choose_columns
from .labels.ontology import Ontology
from .order.balance import Balance, BalancedPlan
from .order.plan import BlockSequence, EpochPlan, row_ids
from .order.samples import SamplePlan, Samples
from .order.splits import Split

if TYPE_CHECKING:
    from ..tokenization.genes.gene_vocabulary import GeneCoverage
    from ..tokenization.processing_cell import CellProcessor
    from .augmentation import Augmentation

# below the number of files that a process may have open on any common system (macOS: 256)
_MAX_OPEN_FILES = 128


class Contents:
    """What readers of windows need to know of a corpus, whatever its cells come from.

    Attributes:
        processor: turns cells into model inputs.
        seed: seed of the order and of everything random about cells.
        block_size, window_size, group_size, shuffle, group_by_length: the order of cells, as for `CellCorpus`.
        sources: the opened sources.
        sizes: number of cells used of each source.
        numbered: field of a batch -> for each source the numbers of the cells used.
        label_names, batch_names: the values of the columns in the order of their numbers, None without column.
        task_names: column of a task -> its values in the order of their numbers.
        ontology: what the labels mean, None where each is a class of its own.
        samples: which cells belong together, None where each stands alone.
        balance: how often cells come in an epoch, None for once.
        augment: what is done to counts before they are encoded, None for nothing.
        dropped: source name -> column -> cells that a condition of `where` left out.
    """

    processor: "CellProcessor"
    seed: int
    block_size: int
    window_size: int
    group_size: int
    shuffle: bool
    group_by_length: bool
    sources: list[CellSource]
    sizes: list[int]
    numbered: dict[str, list[np.ndarray]]
    label_names: list[str] | None
    batch_names: list[str] | None
    task_names: dict[str, list[str]]
    ontology: Ontology | None = None
    samples: Samples | None = None
    balance: Balance | None = None
    augment: "Augmentation | None" = None
    dropped: dict[str, dict[str, int]]

    def __len__(self) -> int:
        """Number of cells of an epoch."""
        raise NotImplementedError

    @property
    def coverage(self) -> "dict[str, GeneCoverage]":
        """Source name -> what became of its genes."""
        raise NotImplementedError

    @property
    def cells_id(self) -> str:
        """Names the cells: the same for the same rows of the same sources."""
        raise NotImplementedError

    @property
    def leaf_names(self) -> list[str] | None:
        """The leaves of the ontology, None without one."""
        return None if self.ontology is None else self.ontology.leaves

    @property
    def label_sets(self) -> np.ndarray | None:
        """(labels, leaves) bool: which leaves each of `label_names` may mean; None without an ontology."""
        return None if self.ontology is None else self.ontology.label_sets(self.label_names)

    def plan(self, window_size: int, epoch: int) -> BlockSequence | SamplePlan:
        """Which cells of which source come in which window of an epoch."""
        raise NotImplementedError

    def opened(self, index: int) -> CellSource:
        """A source that is about to be read."""
        raise NotImplementedError

    def gene_ids(self, index: int) -> np.ndarray:
        """(n_genes,) gene ids of the columns of a source; sources with the same genes share the array."""
        raise NotImplementedError

    def rows_at(self, index: int, positions: np.ndarray) -> np.ndarray:
        """Rows of a source that stand at `positions` among the rows used of it."""
        raise NotImplementedError


class FileContents(Contents):
    """Cells of files; arguments, attributes and errors are those of `CellCorpus`."""

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path] | Mapping[str, str | Path],
        processor: "CellProcessor",
        *,
        layer: str | None = None,
        label_column: LabelColumn | None = None,
        label_names: Sequence[str] | None = None,
        unlabelled: Literal["refuse", "drop"] = "refuse",
        ontology: str | Path | Sequence[str | Path] | Ontology | None = None,
        unknown_labels: Literal["refuse", "drop"] = "refuse",
        balance_labels: float | None = None,
        batch_column: str | None = None,
        batch_names: Sequence[str] | None = None,
        sample_share: float = 1.0,
        split_samples: bool = False,
        augment: "Augmentation | None" = None,
        task_columns: Sequence[str] | Mapping[str, Sequence[str]] = (),
        species: str | None = None,
        rows: Mapping[str | Path, Any] | None = None,
        where: Mapping[str, Any] | None = None,
        split: Literal["train", "validation"] | None = None,
        split_by: str | None = None,
        validation_share: float = 0.1,
        seed: int = 0,
        block_size: int = 32,
        window_size: int = 4096,
        group_size: int = 64,
        shuffle: bool = True,
        group_by_length: bool | None = None,
        lazy: bool = False,
    ) -> None:
        self.processor, self.seed, self.shuffle = processor, seed, shuffle
        self.block_size, self.window_size, self.group_size = block_size, window_size, group_size
        self.group_by_length = shuffle if group_by_length is None else group_by_length
        named = dict(sorted(name_paths(paths).items()))
        expects = processor.feature_extractor.expects
        self.augment = augment
        if augment is not None and augment.thin_share and expects != "counts":
            raise ConfigurationError(
                f"Only counts can be thinned, and the encoding expects {expects!r}: set `thin_share` of the "
                "augmentation to 0 (`augment=Augmentation(thin_share=0)`, `--augment '{\"thin_share\": 0}'`), or, "
                'where the values are counts, have the processor say so (`expects="counts"`).'
            )
        self.sources = [
            open_source(name, path, layer=layer, expects=expects, lazy=lazy) for name, path in named.items()
        ]
        chosen = select_rows(rows, named, self.sources)
        side = Split.asked_for(split, split_by, validation_share)
        self._rows, self.dropped = filter_rows(self.sources, chosen, where=where, split=side)
        tasks = task_columns if isinstance(task_columns, Mapping) else dict.fromkeys(task_columns)
        columns = choose_columns(label_column, self.sources, named) if label_column else None
        self._drop_unlabelled(unlabelled, [*([columns] if columns else []), *tasks])
        self._take_ontology(ontology, unknown_labels, columns)
        pairs = zip(self.sources, self._rows, strict=True)
        self.sizes = [source.n_cells if used is None else len(used) for source, used in pairs]
        if not len(self):
            lost = {column: sum(counts[column] for counts in self.dropped.values()) for column in where or {}}
            told = [f"the condition on `obs[{column!r}]` left out {number:,}" for column, number in lost.items()]
            raise CorpusError(
                "; ".join(["`rows`, `where`, `split` or `unlabelled='drop'` leaves no cell in the corpus", *told])
                + "."
            )
        self.numbered: dict[str, list[np.ndarray]] = {}
        self.label_names = self._number("labels", columns, label_names)
        if self.ontology is not None:
            self.ontology = self.ontology.for_labels(self.label_names)
            # a name that nobody knows is found before any cell is read
            _ = self.label_sets
        self.batch_names = self._number("batch_labels", batch_column, batch_names)
        self.task_names = {column: self._number(f"labels_{column}", column, names) for column, names in tasks.items()}
        if balance_labels is not None:
            self.balance = self._balance(balance_labels)
        if processor.context == "sample":
            self.samples = Samples(self.sources, self._rows, batch_column, sample_share, self.balance, split_samples)
        self._genes = GeneMaps(processor, species)
        self._open: dict[int, None] = {}
        if not lazy:
            _ = self.coverage

    def __len__(self) -> int:
        """Number of cells."""
        return sum(self.sizes)

    @property
    def coverage(self) -> "dict[str, GeneCoverage]":
        """Source name -> what became of its genes; opens the sources that have not been read yet.

        The share of counts is an estimate from 128 cells of the source, evenly spread.

        Raises:
            GeneCoverageError: the model knows less than 30 % of the counts of a source; the message names it.
        """
        return {
            source.name: self._genes.of(self.opened(index), self._rows[index])[1]
            for index, source in enumerate(self.sources)
            if self.sizes[index]
        }

    @property
    def cells_id(self) -> str:
        """Names the cells: the same for the same rows of the same sources."""
        names = [source.name for source in self.sources]
        rows = [None if used is None else hashlib.sha256(used.tobytes()).hexdigest() for used in self._rows]
        return repr((names, self.sizes, rows))

    def plan(self, window_size: int, epoch: int) -> BlockSequence | SamplePlan:
        """Which cells of which source come in which window of an epoch."""
        if self.samples:
            return SamplePlan(self.samples, window_size, seed=self.seed, epoch=epoch, shuffle=self.shuffle)
        if self.balance is not None:
            return BalancedPlan(self, self.balance, epoch=epoch, window_size=window_size)
        return EpochPlan(
            [source.name for source in self.sources],
            self.sizes,
            window_size=window_size,
            block_size=self.block_size,
            seed=self.seed,
            epoch=epoch,
            shuffle=self.shuffle,
        )

    def opened(self, index: int) -> CellSource:
        """A source that is about to be read; the one unused for longest is closed when too many are open."""
        self._open.pop(index, None)
        self._open[index] = None
        if len(self._open) > _MAX_OPEN_FILES:
            oldest = next(iter(self._open))
            del self._open[oldest]
            self.sources[oldest].close()
        return self.sources[index]

    def gene_ids(self, index: int) -> np.ndarray:
        """(n_genes,) gene ids of the columns of a source; sources with the same genes share the array."""
        return self._genes.of(self.opened(index), self._rows[index])[0]

    def rows_at(self, index: int, positions: np.ndarray) -> np.ndarray:
        """Rows of a source that stand at `positions` among the rows used of it."""
        return positions if self._rows[index] is None else self._rows[index][positions]

    def drawn(self, n_cells: int) -> Self:
        """At most so many of the cells, each once, as it is, in the order of the rows.

        Where cells come in samples, whole samples are drawn until there are enough cells, so there may be more.
        """
        sizes = np.array(self.sizes)
        begins = np.cumsum(sizes) - sizes
        if self.samples is None:
            ids = [row_ids(self.sources[i].name, self.rows_at(i, np.arange(size))) for i, size in enumerate(sizes)]
            chosen = np.argsort(cell_keys(np.concatenate(ids), self.seed, 0), kind="stable")[:n_cells]
        else:
            order = self.samples.order(n_cells, seed=self.seed, epoch=0, shuffle=True)
            before = np.cumsum(self.samples.sizes[order]) - self.samples.sizes[order]
            samples = [self.samples[number] for number in order[before < n_cells]]
            chosen = np.concatenate([begins[sample.source] + sample.positions for sample in samples])
        chosen = np.split(np.sort(chosen), np.searchsorted(np.sort(chosen), begins[1:]))
        return self._part([places - begin for places, begin in zip(chosen, begins, strict=True)])

    def labelled_by(self, columns: str | Sequence[str]) -> Self:
        """The cells that have a value in another column, which becomes `labels`.

        Args:
            columns: column of `obs`; or several, of which each source uses the first that it has.

        Raises:
            ConfigurationError: a source has no such column.
            CorpusError: no cell has a value.
        """
        columns = choose_columns(columns, self.sources, {})
        rows = [self.rows_at(i, np.arange(size)) for i, size in enumerate(self.sizes)]
        kept, _ = drop_unlabelled(self.sources, rows, [columns])
        if not any(map(len, kept)):
            raise CorpusError(f"No cell has a value in `obs` {columns!r}: name another column.")
        part = self._part([np.flatnonzero(np.isin(*pair)) for pair in zip(rows, kept, strict=True)])
        part.ontology = None
        part.label_names = part._number("labels", columns, None)
        return part

    def _part(self, positions: Sequence[np.ndarray]) -> Self:
        """The cells at ascending positions of each source, in the order of the rows."""
        part = copy.copy(self)
        part.shuffle = part.group_by_length = False
        part.balance = part.augment = None
        part._rows = [self.rows_at(index, places) for index, places in enumerate(positions)]
        part.sizes = [len(places) for places in positions]
        part.numbered = {
            field: [codes[places] for codes, places in zip(numbers, positions, strict=True)]
            for field, numbers in self.numbered.items()
        }
        if self.samples is not None:
            part.samples = Samples(self.sources, part._rows, self.samples.column, split=self.samples.split)
        return part

    def _drop_unlabelled(self, unlabelled: str, columns: list[str]) -> None:
        if unlabelled not in ("refuse", "drop"):
            raise ConfigurationError(f"`unlabelled` must be 'refuse' or 'drop', got {unlabelled!r}.")
        self.unlabelled: dict[str, int] = {}
        if unlabelled == "drop" and columns:
            self._rows, self.unlabelled = drop_unlabelled(self.sources, self._rows, columns)

    def _balance(self, power: float) -> Balance:
        if "labels" not in self.numbered:
            raise ConfigurationError("`balance_labels` needs labels: name their column with `label_column`.")
        if not self.shuffle:
            raise ConfigurationError("`balance_labels` draws cells at random: it needs `shuffle=True`.")
        return Balance(power, self.numbered["labels"])

    def _take_ontology(self, ontology: Any, unknown_labels: str, columns: str | list[str] | None) -> None:
        """Note what labels mean, and leave out cells whose label means nothing."""
        if unknown_labels not in ("refuse", "drop"):
            raise ConfigurationError(f"`unknown_labels` must be 'refuse' or 'drop', got {unknown_labels!r}.")
        if ontology is None:
            return
        if columns is None:
            raise ConfigurationError("`ontology` says what labels mean: name their column with `label_column` too.")
        self.ontology = open_ontology(ontology)
        if unknown_labels == "drop":
            self._rows, dropped = drop_unlabelled(self.sources, self._rows, [columns], self.ontology.knows)
            self.unlabelled = {name: self.unlabelled.get(name, 0) + number for name, number in dropped.items()}

    def _number(self, field: str, column: str | Sequence[str] | None, names: Sequence[str] | None) -> list[str] | None:
        if column is None and names is not None:
            raise ConfigurationError(f"Names for `{field}` were given, but no column of `obs` to read them from.")
        if column is None:
            return None
        names, self.numbered[field] = number_categories(column, self.sources, self._rows, names)
        return names
