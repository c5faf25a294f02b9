"""Cells of many files as one shuffled stream of batches: what is made of the contents of a corpus."""

import hashlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigurationError, require
from .contents import Contents, FileContents
from .order.plan import Schedule
from .order.samples import SampleSchedule
from .order.token_budget import TokenSchedule
from .pipeline.window_reader import WindowReader

if TYPE_CHECKING:
    from datasets import IterableDataset

    from .pipeline.loader import CellLoader
    from .pipeline.matrix_reader import MatrixBatch, SharedGenes

_KEYS = "cells by name"
"""What the draws about cells are keyed by: an epoch that began with other keys is not resumed."""


class CellStream(Contents):
    """Contents of any kind, handed out in batches."""

    def batches(
        self,
        batch_size: int,
        *,
        max_tokens_per_batch: int | None = None,
        epoch: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Stream an epoch, or the rest of it.

        The epoch is one sequence of batches; of every `world_size` consecutive ones rank r takes the r-th, so that at
        its end some ranks may have one batch less. Resuming reads the window in which `start` lies again and nothing
        before it.

        With `max_tokens_per_batch`, a window is cut into batches where a limit is reached. Ranks share the batches of
        each window; a rank for which there is none of the last ones gets `{}` instead, so that all ranks have as many.

        Args:
            batch_size: cells of a batch; only the last one of the epoch may be smaller. With `max_tokens_per_batch`,
                the most cells of a batch.
            max_tokens_per_batch: most tokens of a batch, padding included: its cells × the length of the longest; None
                = no limit.
            epoch: number of the epoch.
            start: cells of the epoch that all ranks together have handed out already.
            rank: number of this process.
            world_size: number of processes.

        Returns:
            An iterator over batches: the processor's arrays, padded to the longest cell of the batch, `cell_ids`
            (batch,) (uint64 stored as int64), and `labels`, `batch_labels` and `labels_<column>` (batch,) int64 when
            their columns were named.

        Raises:
            ConfigurationError: `start`, `rank` or a size is impossible, or a cell is longer than
                `max_tokens_per_batch`.
            CorpusError: a file vanished, changed or is damaged.
            ExpressionError: a cell's values are not what the encoding takes; the message names file and row.
        """
        share = {"start": start, "rank": rank, "world_size": world_size}
        schedule = self.schedule(batch_size, max_tokens_per_batch=max_tokens_per_batch, epoch=epoch, **share)
        reader = WindowReader(self, schedule, epoch)
        return (batch for number in schedule.windows() for batch in reader.batches(number))

    def loader(
        self,
        batch_size: int,
        *,
        max_tokens_per_batch: int | None = None,
        collator: Callable | None = None,
        num_workers: int = 0,
        epoch: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> "CellLoader":
        """Batches of torch tensors in the order of [`batches`], made by `num_workers` processes ahead of their use.

        Args:
            batch_size, max_tokens_per_batch, epoch, start, rank, world_size: as for [`batches`].
            collator: called in this process with (batch of arrays, epoch); returns a dict of tensors. A batch without
                cells stays `{}`. The arrays are those of [`batches`], or, for a collator with `narrow = True` such as
                those of `sclm_hf.objectives`, in narrow types; what it returns is widened before you get it.
            num_workers: processes that read and encode cells; 0 = this one.

        Returns:
            An iterable; its `len` is the number of batches, where that is known.
        """
        from .pipeline.loader import CellLoader

        share = {"start": start, "rank": rank, "world_size": world_size}
        schedule = self.schedule(batch_size, max_tokens_per_batch=max_tokens_per_batch, epoch=epoch, **share)
        return CellLoader(self, schedule, epoch, collator=collator, num_workers=num_workers)

    def matrix_batches(
        self, batch_size: int, *, epoch: int = 0, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> "Iterator[MatrixBatch]":
        """Stream an epoch, or the rest of it, as rows of a CSR matrix, shuffled like cells and with nothing done to
        them: for models and baselines that take matrices.

        Args:
            batch_size, epoch, start, rank, world_size: as for [`batches`].

        Returns:
            An iterator over [`~corpora.pipeline.matrix_reader.MatrixBatch`]: `matrix` (batch, genes), the values as
            stored, in the columns of the files; `sources` and `rows` say which cells these are. A batch that is kept
            keeps the memory of its window: `matrix.copy()` does not.

        Raises:
            ConfigurationError: `start`, `rank` or a size is impossible, sources have other genes or in another order,
                or cells come in samples.
            CorpusError: a file vanished, changed or is damaged.
        """
        if self.samples:
            raise ConfigurationError("Cells of samples come sample by sample: use `batches`.")
        from .pipeline.matrix_reader import MatrixReader

        share = {"start": start, "rank": rank, "world_size": world_size}
        return MatrixReader(self, self.schedule(batch_size, epoch=epoch, **share), epoch, self._shared_genes).batches()

    @cached_property
    def _shared_genes(self) -> "SharedGenes":
        from .pipeline.matrix_reader import SharedGenes

        return SharedGenes()

    def to_dataset(self, epoch: int = 0) -> "IterableDataset":
        """The epoch as a `datasets.IterableDataset` of single cells, in the order of `batches(group_size)`.

        Its shards are windows: workers of a `DataLoader` share them, and `state_dict` resumes inside one. After
        `set_epoch(n)`, which transformers' `Trainer` calls, it gives the cells of `to_dataset(epoch + n)`. Columns of
        labels are `datasets.ClassLabel`.

        Raises:
            MissingDependencyError: `datasets` is not installed.
            ConfigurationError: cells belong together in samples.
        """
        if self.samples:
            raise ConfigurationError("A model of samples cannot learn from single cells: use `batches` or `loader`.")
        require("datasets", extra="train")
        from .dataset import cells_dataset

        return cells_dataset(self, self.schedule(self.group_size), epoch)

    def schedule(
        self,
        batch_size: int,
        *,
        max_tokens_per_batch: int | None = None,
        epoch: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> Schedule | TokenSchedule | SampleSchedule:
        """Which batches a rank reads; arguments as for [`batches`]."""
        if self.samples:
            if max_tokens_per_batch is not None:
                raise ConfigurationError(
                    "`max_tokens_per_batch` is for models of single cells: a batch is one sample, of at most as many "
                    "cells as the batch size says."
                )
            return SampleSchedule.make(
                self.samples,
                batch_size,
                seed=self.seed,
                epoch=epoch,
                shuffle=self.shuffle,
                start=start,
                rank=rank,
                world_size=world_size,
            )
        share = {"window_size": self.window_size, "start": start, "rank": rank, "world_size": world_size}
        if max_tokens_per_batch is None:
            return Schedule.make(len(self), batch_size, group_size=self.group_size, **share)
        longest = self.processor.feature_extractor.max_length
        if longest is not None and max_tokens_per_batch < longest:
            raise ConfigurationError(
                f"`max_tokens_per_batch` must be at least {longest}, the `max_length` of the encoding, so that every "
                f"cell fits into a batch; got {max_tokens_per_batch}."
            )
        return TokenSchedule.make(len(self), batch_size, max_tokens_per_batch, **share)

    def n_batches(self, batch_size: int) -> int:
        """Number of batches of an epoch, of all ranks together."""
        return self.schedule(batch_size).n_batches

    def order_id(self, batch_size: int, *, max_tokens_per_batch: int | None = None) -> str:
        """Names the order of cells in an epoch and what their draws are keyed by.

        An epoch can be resumed only where this is the same.
        """
        schedule = self.schedule(batch_size, max_tokens_per_batch=max_tokens_per_batch)
        how = (self.seed, self.block_size, self.shuffle, self.group_by_length, schedule.order_settings, _KEYS)
        if self.augment is not None:
            how = (*how, self.augment)
        if self.balance is not None:
            how = (*how, ("balance_labels", self.balance.power))
        return hashlib.sha256(repr((self.cells_id, how)).encode()).hexdigest()[:16]


class CellCorpus(FileContents, CellStream):
    """Cells of one or many files, streamed in an order that seed and epoch decide.

    Every epoch hands out every cell once, or, with `balance_labels`, as many cells as there are. The order does not
    depend on the order of the files, on workers or on ranks, so an epoch can be resumed after any batch with another
    number of them. Memory hardly grows with the corpus: by 1 byte per cell for the order, 1 or 2 for each column of
    labels, 8 for each of `rows` or drawn by `balance_labels`, and 16 for each cell of the files that are open at the
    moment.

    What is random about a cell (ties, which genes a long cell keeps, masks) is keyed by its name in `obs_names`, as in
    `embed` and `annotate`: with the same seed they draw the same for a cell. Cells of one name, in different files,
    share their draws, which does no harm. The order of cells is keyed by the names of sources and the rows.

    With a processor whose `context` is `"sample"`, every batch is one sample: the cells of a source with the same
    value in `batch_column`, else in `obs["batch"]`, else all of them. Samples are not put together, nor split, unless
    `split_samples` says so; they come in shuffled order, their cells in that of the rows. The batch size is then the
    most cells that an epoch takes of a sample, drawn anew in each; `block_size`, `window_size`, `group_size` and
    `group_by_length` have no effect.

    Args:
        paths: .h5ad files, AnnData zarr folders, folders of such, zarr collections that annbatch wrote, or folders
            that `sclm-hf corpus build` wrote; one, a sequence, or a mapping source name -> file. Without a mapping, a
            source is named after its file.
        processor: turns cells into model inputs; its vocabulary decides which genes are used.
        layer: `"X"`, `"raw"` or the name of a layer; by default counts are looked for in `layers["counts"]`, `raw` and
            `X`, in this order (encodings that expect normalised values: `X`).
        label_column: column of `obs` that becomes `labels`, numbers of `label_names`; where files call it by different
            names, several columns of which each source uses the first that it has, or a mapping from the name or path
            of each source to its column.
        label_names: the labels in the order of their numbers; by default those of the cells used, sorted.
        unlabelled: `"refuse"` cells without a value in `label_column` or one of `task_columns`, or `"drop"` them:
            those with a missing value, or a text that usually stands for one (`""`, `"nan"`, `"NA"`, `"None"`, …).
            Texts such as `"unknown"` or `"doublet"` are labels like others.
        ontology: what the labels mean, so that files whose names differ in grain train together: `"blood"`,
            `"retina"`, `"heart"`, `"pancreas"`, a YAML file of the same form, or several joined by `+`; or
            `"cl"`, the Cell Ontology (its names, synonyms or ids), whose classes are the terms that the labels name.
        unknown_labels: `"refuse"` labels that the ontology does not know, or `"drop"` such cells, and those
            without a label.
        balance_labels: draw cells of rare labels more often, with repetition: a cell's weight in its source is the
            number of cells with its label to this power, between -1 (all labels alike) and 0; a source's share grows
            with the square root of its cells. An epoch has as many cells as before, and some cells come not at all.
        batch_column: column of `obs` that becomes `batch_labels`, numbers of `batch_names`.
        batch_names: as `label_names`.
        sample_share: share of the cells of each sample that an epoch takes, drawn anew in each, where cells come in
            samples.
        split_samples: let a sample with more cells than a batch come in several batches, so that an epoch holds every
            cell: for what looks at each cell alone, or at any part of a sample.
        augment: makes cells shallower and cuts them to fewer genes, differently in every epoch; None = never.
        task_columns: columns of `obs`, one a task of a multi-task model; each becomes `labels_<column>`. A mapping
            gives the values of each in the order of their numbers.
        species: `"human"`, or `"mouse"` to map genes through orthologs; by default the one that the Ensembl ids of a
            source name, and human where there are none.
        rows: source name or path -> row numbers or mask, for a part of the cells of some sources.
        where: conditions on `obs` that a cell must meet, as data: column -> a value, a list of values, or a mapping
            with some of `in`, `not`, `min` and `max`. A cell without a value meets none.
        split: `"train"` or `"validation"`: use one side of a split of the cells that meet the conditions.
        split_by: column of `obs` whose values stay on one side, such as the donor, or `"dataset"` for the names of the
            sources. The side of a name depends on nothing but the name.
        validation_share: expected share of the names on the validation side.
        seed: seed of the order and of everything random about cells.
        block_size: consecutive cells that are read together.
        window_size: cells among which the order is fully random (rounded down to whole groups); about 15 kB of memory
            each for 1,700 expressed genes.
        group_size: cells of similar length that come one after the other (rounded up to whole batches). The order of
            cells is the same for all batch sizes that divide it.
        shuffle: False = the cells in the order of source names and rows.
        group_by_length: put cells of similar length together; None = when shuffling. Without shuffling, the cells of a
            window come in the order of their lengths.
        lazy: check a file and map its genes when it is first read, not now: now only its links and the size of its
            matrix are looked at. Many files then start at once, but one that is damaged, or that the model does not
            know, is found only when its turn comes; none of it is handed out.

    Attributes:
        label_names, batch_names: the values of the columns in the order of their numbers, None without column.
        task_names: column of a task -> its values in the order of their numbers.
        ontology: what the labels mean, or None.
        leaf_names: the leaves of the ontology, which are the classes of a classifier; None without one.
        label_sets: (labels, leaves) bool, which leaves each label may mean; None without an ontology.
        sources: the opened sources, sorted by name.
        samples: which cells belong together, None where each stands alone.
        dropped: source name -> column -> cells that a condition of `where` left out.
        unlabelled: source name -> cells that were dropped because they have no label, or one that the ontology does
            not know.

    Raises:
        CorpusError: a file is missing, damaged, empty or lacks a column; two sources share a name; a cell used has no
            label or one that is not in `label_names`.
        GeneCoverageError: the model knows less than 30 % of the counts of a source; the message names it.

    Example:

        >>> corpus = CellCorpus("atlas/", processor, label_column="cell_type")  # doctest: +SKIP
        >>> for batch in corpus.loader(64, num_workers=2, epoch=0):  # doctest: +SKIP
        ...     print(batch["input_ids"].shape, batch["labels"])
    """
