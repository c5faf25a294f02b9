"""Samples: the cells that a model whose tokens are cells must see together, and their order in an epoch."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...errors import ConfigurationError
from ...logging import warn
from ...sources.cell_source import CellSource
from ...sources.samples import find_samples
from ...tokenization.encodings.keys import Stream, cell_keys, uniforms_for
from .balance import Balance, ids_again, shared_out
from .plan import Drawn, check_share, row_ids, sample_ids


class Sample(NamedTuple):
    """Cells of one source that belong together.

    Attributes:
        source: number of the source.
        positions: (cells,) ascending positions among the cells that the corpus uses of it.
        name: where it is, for messages.
    """

    source: int
    positions: np.ndarray
    name: str


class Samples:
    """The samples of a corpus: the cells of a source with the same value of a column.

    The same value in two sources means two samples. A source without the column is one sample.

    Args:
        sources: the sources.
        rows: the rows used of each; None = all.
        column: column of `obs`; None = `obs["batch"]` of the sources that have it.
        share: share of the cells of a sample that an epoch takes, at least one.
        balance: how often cells and samples come; None = once per epoch.
        split: let a sample with more cells than a batch may have come in several batches of different cells, drawn
            anew in each epoch, instead of in one with some of its cells.

    Raises:
        ConfigurationError: `share` is no share, or a source lacks the column that was named, or has another value in
            it for each cell.
        CorpusError: a cell used has no value in it.
    """

    def __init__(
        self,
        sources: Sequence[CellSource],
        rows: Sequence[np.ndarray | None],
        column: str | None = None,
        share: float = 1.0,
        balance: Balance | None = None,
        split: bool = False,
    ) -> None:
        if not 0 < share <= 1:
            raise ConfigurationError(f"`sample_share` must be above 0 and at most 1, got {share}.")
        self._sources, self._rows, self._share, self._balance = sources, rows, share, balance
        self.column, self.split = column, split
        self._samples: list[Sample] = []
        ids = [self._add(index, column) for index in range(len(sources))]
        self.ids = np.concatenate(ids)
        self.sizes = np.array([len(sample.positions) for sample in self._samples])
        self._warned_of: set[int] = set()

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._samples)

    def __getitem__(self, number: int) -> Sample:
        return self._samples[number]

    def rows_of(self, number: int) -> np.ndarray:
        """(cells,) rows of a sample in its source."""
        sample = self._samples[number]
        used = self._rows[sample.source]
        return sample.positions if used is None else used[sample.positions]

    def order(self, most_cells: int, *, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
        """(batches,) int64: the samples of an epoch, one after the other; balanced, some come again and some not."""
        n_times = -(-self.taken() // most_cells) if self.split else np.ones(len(self), np.int64)
        if self._balance is not None and shuffle:
            n_batches = max(len(self), -(-int(self.taken().sum()) // most_cells))
            offset = uniforms_for(cell_keys(self.ids[:1], seed, epoch), Stream.BALANCE, 1)[0, 0]
            n_times = shared_out(n_batches, np.sqrt(self.sizes), offset)
        samples = np.repeat(np.arange(len(self)), n_times)
        if not shuffle:
            return samples
        ids = ids_again(self.ids[samples], _times_before(samples))
        return samples[np.argsort(cell_keys(ids, seed, epoch), kind="stable")]

    def taken(self, most_cells: int | None = None) -> np.ndarray:
        """(samples,) int64: how many cells an epoch takes of each, at most `most_cells`."""
        taken = np.maximum((self.sizes * self._share).astype(np.int64), 1)
        return taken if most_cells is None else np.minimum(taken, most_cells)

    def batch_sizes(self, order: np.ndarray, most_cells: int) -> np.ndarray:
        """(batches,) int64: the cells of each batch of an [`order`]."""
        taken = self.taken()[order]
        if self.split and self._balance is None:
            places = np.argsort(order, kind="stable")
            taken[places] -= most_cells * _times_before(order[places])
        return np.minimum(taken, most_cells)

    def warn_of_larger(self, most_cells: int) -> None:
        """Warn once about samples that are larger than the batch size."""
        larger = np.flatnonzero(self.taken() > most_cells)
        # split or balanced, a larger sample comes in several batches
        if self.split or self._balance is not None or not larger.size or most_cells in self._warned_of:
            return
        self._warned_of.add(most_cells)
        largest = int(self.sizes.argmax())
        warn(
            f"{larger.size} of {len(self)} samples have more than {most_cells} cells, the batch size; the largest is "
            f"{self._samples[largest].name} with {self.taken()[largest]:,}. Of these an epoch takes {most_cells} "
            "cells, drawn anew in each: raise the batch size for whole samples."
        )

    def chosen(
        self, number: int, most_cells: int, before: int, *, seed: int, epoch: int, shuffle: bool = True
    ) -> Drawn:
        """At most `most_cells` cells of a sample, drawn by their rows.

        Args:
            number: number of the sample.
            most_cells: most cells.
            before: how often the sample came before in the epoch.
            seed, epoch: of the draws.
            shuffle: False = a sample that is split comes in the order of its rows.
        """
        source, positions, _ = self._samples[number]
        taken, keys = int(self.taken(most_cells)[number]), {"seed": seed, "epoch": epoch}
        if len(positions) == taken and self._balance is None:
            return Drawn(positions)
        part = slice(before * most_cells, (before + 1) * most_cells)
        if self.split and not shuffle:
            return Drawn(positions[part])
        ids = row_ids(self._sources[source].name, self.rows_of(number))
        if self._balance is None:
            drawn = np.argsort(cell_keys(ids, **keys), kind="stable")
            drawn = drawn[: self.taken()[number]][part] if self.split else drawn[:taken]
            return Drawn(np.sort(positions[drawn]))
        ids = ids_again(ids, np.full(len(ids), before))
        drawn = self._balance.drawn(source, positions, taken, ids, **keys)
        return Drawn(drawn, _times_before(drawn) + before * most_cells)

    def digest(self) -> str:
        """What names the samples: the same for the same cells in the same samples."""
        found = hashlib.sha256(self.ids.tobytes() + self.taken().tobytes() + b"split" * self.split)
        for sample in self._samples:
            found.update(sample.positions.tobytes())
        return found.hexdigest()[:16]

    def _add(self, index: int, column: str | None) -> np.ndarray:
        """Note the samples of a source; returns their ids."""
        source, used = self._sources[index], self._rows[index]
        n_cells = source.n_cells if used is None else len(used)
        if not n_cells:
            return np.empty(0, np.uint64)
        found = find_samples(source, column, used, setting="`batch_column` (`--batch_column`)")
        for name, places in zip(found.names, found.places, strict=True):
            where = "" if found.column is None else f", `obs[{found.column!r}]` {name!r}"
            self._samples.append(Sample(index, places, f"`{source.location}`{where}"))
        return sample_ids(source.name, found.names)


class SamplePlan:
    """Which sample comes when in an epoch: each window is one.

    Args:
        samples: the samples.
        most_cells: most cells that are taken of one.
        seed, epoch, shuffle: what the order depends on.
    """

    def __init__(self, samples: Samples, most_cells: int, *, seed: int, epoch: int, shuffle: bool) -> None:
        self._samples, self._most_cells = samples, most_cells
        self._keys = {"seed": seed, "epoch": epoch, "shuffle": shuffle}
        self._order = samples.order(most_cells, **self._keys)

    def cells(self, number: int) -> dict[int, Drawn]:
        """The cells of window `number`, which are those of one sample, by source."""
        sample = int(self._order[number])
        before = int((self._order[:number] == sample).sum())
        drawn = self._samples.chosen(sample, self._most_cells, before, **self._keys)
        return {self._samples[sample].source: drawn}


def _times_before(values: np.ndarray) -> np.ndarray:
    """(values,) how often each of some ascending values stands before its place."""
    return np.arange(len(values)) - np.searchsorted(values, values)


class SampleSchedule(NamedTuple):
    """The samples of an epoch that one rank reads; each is a window, and a batch.

    Attributes:
        window_size: most cells of a sample.
        numbers: the rank's samples, counted over all ranks from the beginning of the epoch.
        digest: names the samples.
    """

    window_size: int
    numbers: range
    digest: str

    @classmethod
    def make(
        cls,
        samples: Samples,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        shuffle: bool,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> "SampleSchedule":
        """Share the samples of an epoch from cell `start` on among the ranks.

        Raises:
            ConfigurationError: a size is not positive, the rank is not among the ranks, or no sample begins at
                `start`.
        """
        order = samples.order(batch_size, seed=seed, epoch=epoch, shuffle=shuffle)
        sizes = samples.batch_sizes(order, batch_size)
        check_share(int(sizes.sum()), {"batch_size": batch_size}, start=start, rank=rank, world_size=world_size)
        begins = np.concatenate([[0], np.cumsum(sizes)])
        first = int(np.searchsorted(begins, start))
        if begins[first] != start:
            raise ConfigurationError(
                f"No sample begins at cell {start} of the epoch: an epoch is resumed where a batch ended, with the "
                "samples and the batch size that it began with."
            )
        samples.warn_of_larger(batch_size)
        return cls(batch_size, range(first + rank, len(sizes), world_size), samples.digest())

    @property
    def order_settings(self) -> tuple[int, str]:
        """What the order of cells depends on."""
        return (self.window_size, self.digest)

    @property
    def n_batches(self) -> int:
        """Number of the rank's samples."""
        return len(self.numbers)

    def windows(self) -> range:
        """The rank's samples."""
        return self.numbers

    def reads(self, window: int) -> bool:
        """Whether a sample is the rank's."""
        return window in self.numbers

    def batches(self, window: int, ids: np.ndarray, lengths: np.ndarray | None, **arrangement) -> list[np.ndarray]:
        """The one batch of a window: all its cells in their order, however others arrange theirs."""
        return [np.arange(len(ids))]
