"""The order of an epoch, as a pure function of (seed, epoch, sources).

Sources are cut into blocks of consecutive cells; the blocks of all sources are shuffled together; consecutive pieces
of that sequence are windows; the cells of a window are shuffled again, and grouped by length. Everything random is a
sort by keys made from names and numbers, so it depends neither on the order in which files are given nor on the
version of a generator, and any window can be found without walking through those before it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...errors import ConfigurationError
from ...tokenization.encodings.keys import cell_keys, hash_names

_ROWS, _BLOCKS, _SAMPLES = 0, 1, 2


class Stretch(NamedTuple):
    """Consecutive cells of one source: positions `start` to `stop` among the cells that the corpus uses of it."""

    source: int
    start: int
    stop: int


class Drawn(NamedTuple):
    """Cells of one source that come in a window.

    Attributes:
        positions: (cells,) ascending positions among the cells used of it.
        repeats: (cells,) how often each came before in the epoch; None = never.
    """

    positions: np.ndarray
    repeats: np.ndarray | None = None


def cells_of(stretches: Sequence[Stretch]) -> dict[int, np.ndarray]:
    """Source -> the positions of its cells in all stretches."""
    by_source: dict[int, list[tuple[int, int]]] = {}
    for source, start, stop in stretches:
        by_source.setdefault(source, []).append((start, stop))
    return {source: _ranges(*np.array(parts, np.int64).T) for source, parts in by_source.items()}


def _ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """All numbers of ranges, one after the other."""
    sizes = stops - starts
    ends = np.cumsum(sizes)
    return np.arange(ends[-1]) + np.repeat(starts - (ends - sizes), sizes)


def row_ids(source_name: str, rows: np.ndarray) -> np.ndarray:
    """(cells,) uint64: what the place of cells in an epoch is keyed by.

    Not their names: many files call their cells 0, 1, 2, …, and cells of one name would come one after the other.
    """
    return _ids(source_name, rows, _ROWS)


def block_ids(source_name: str, numbers: np.ndarray) -> np.ndarray:
    """(blocks,) uint64: what the place of blocks in an epoch is keyed by."""
    return _ids(source_name, numbers, _BLOCKS)


def sample_ids(source_name: str, sample_names: Sequence[str]) -> np.ndarray:
    """(samples,) uint64: what the place of samples in an epoch is keyed by."""
    return _ids(source_name, hash_names(sample_names), _SAMPLES)


class Schedule(NamedTuple):
    """The batches of an epoch that one rank reads.

    Attributes:
        n_cells: cells of the corpus.
        batch_size: cells of a batch; only the last of the epoch may be smaller.
        group_size: cells grouped by length, a multiple of `batch_size`.
        window_size: cells of a window, a multiple of `group_size`.
        numbers: the rank's batches, counted over all ranks from the beginning of the epoch.
    """

    n_cells: int
    batch_size: int
    group_size: int
    window_size: int
    numbers: range

    @classmethod
    def make(
        cls,
        n_cells: int,
        batch_size: int,
        *,
        group_size: int,
        window_size: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> "Schedule":
        """Fit groups and windows to the batch size, and share the batches from cell `start` on among the ranks.

        Raises:
            ConfigurationError: a size is not positive, the rank is not among the ranks, or no batch begins at `start`.
        """
        sizes = {"batch_size": batch_size, "group_size": group_size, "window_size": window_size}
        check_share(n_cells, sizes, start=start, rank=rank, world_size=world_size)
        if start % batch_size and start != n_cells:
            raise ConfigurationError(
                f"`start` must be a multiple of the batch size {batch_size} from 0 to {n_cells} cells, got {start}: "
                "an epoch is resumed where a batch ended."
            )
        first, last = -(-start // batch_size), -(-n_cells // batch_size)
        group_size = -(-max(group_size, batch_size) // batch_size) * batch_size
        window_size = max(1, window_size // group_size) * group_size
        return cls(n_cells, batch_size, group_size, window_size, range(first + rank, last, world_size))

    @property
    def order_settings(self) -> tuple[int, ...]:
        """What the order of cells depends on."""
        return (self.window_size, self.group_size)

    @property
    def n_batches(self) -> int:
        """Number of the rank's batches."""
        return len(self.numbers)

    def windows(self) -> range:
        """The windows in which the rank has batches, and perhaps some between them in which it has none."""
        if not self.numbers:
            return range(0)
        per_window = self.window_size // self.batch_size
        return range(self.numbers[0] // per_window, self.numbers[-1] // per_window + 1)

    def cells(self, window: int) -> list[slice]:
        """The rank's batches of a window, as places in the order of the window's cells."""
        per_window = self.window_size // self.batch_size
        step = self.numbers.step
        begin = max(0, -(-(window * per_window - self.numbers.start) // step))
        end = max(0, -(-((window + 1) * per_window - self.numbers.start) // step))
        places = [number % per_window * self.batch_size for number in self.numbers[begin:end]]
        return [slice(place, place + self.batch_size) for place in places]

    def reads(self, window: int) -> bool:
        """Whether the rank has batches in a window."""
        return bool(self.cells(window))

    def batches(
        self,
        window: int,
        ids: np.ndarray,
        lengths: np.ndarray | None,
        *,
        grouped: bool,
        shuffle: bool,
        seed: int,
        epoch: int,
    ) -> list[np.ndarray]:
        """The rank's batches of a window, as positions of cells; arguments as for `arrange`."""
        lengths = lengths if grouped else None
        order = arrange(ids, lengths, group_size=self.group_size, shuffle=shuffle, seed=seed, epoch=epoch)
        return [order[place] for place in self.cells(window)]


def check_share(n_cells: int, sizes: Mapping[str, int], *, start: int, rank: int, world_size: int) -> None:
    """Refuse to share the cells of an epoch in an impossible way.

    Args:
        n_cells: cells of the corpus.
        sizes: name of a setting -> its value.
        start: cells handed out already.
        rank: number of the rank.
        world_size: number of ranks.

    Raises:
        ConfigurationError: a size is not positive, the rank is not among the ranks, or there is no cell `start`.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ConfigurationError(f"`{name}` must be at least 1, got {size}.")
    if not 0 <= rank < world_size:
        raise ConfigurationError(f"`rank` must lie in 0..{world_size - 1} (`world_size` - 1), got {rank}.")
    if not 0 <= start <= n_cells:
        raise ConfigurationError(f"`start` must lie in 0..{n_cells} (the cells of the corpus), got {start}.")


class BlockSequence:
    """Blocks of consecutive cells, one after the other, cut into windows.

    Args:
        sources: (blocks,) number of each block's source.
        starts, stops: (blocks,) its cells, as positions among those used of the source.
        window_size: cells of a window; only the last one may be smaller.

    Attributes:
        n_cells, n_windows: how many there are.
    """

    def __init__(self, sources: np.ndarray, starts: np.ndarray, stops: np.ndarray, window_size: int) -> None:
        self._sources, self._starts, self._stops = sources, starts, stops
        self._ends = np.cumsum(stops - starts)
        self.window_size = window_size
        self.n_cells = int((stops - starts).sum())
        self.n_windows = -(-self.n_cells // window_size)

    def blocks(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sources, starts, stops of the blocks that hold cells `first` to `last` (at least one), the outer cut."""
        blocks = slice(np.searchsorted(self._ends, first, "right"), np.searchsorted(self._ends, last, "left") + 1)
        sources, starts, stops = self._sources[blocks], self._starts[blocks].copy(), self._stops[blocks].copy()
        ends = self._ends[blocks]
        starts[0] += first - (ends[0] - (stops[0] - starts[0]))
        stops[-1] -= ends[-1] - last
        return sources, starts, stops

    def cells(self, number: int) -> dict[int, Drawn]:
        """The cells of window `number`, by source."""
        return {source: Drawn(positions) for source, positions in cells_of(self.window(number)).items()}

    def window(self, number: int) -> list[Stretch]:
        """The stretches of window `number`, sorted by source and position; neighbours are joined."""
        first = number * self.window_size
        sources, starts, stops = self.blocks(first, min(first + self.window_size, self.n_cells))
        stretches: list[Stretch] = []
        for i in np.lexsort((starts, sources)):
            source, start, stop = int(sources[i]), int(starts[i]), int(stops[i])
            if stretches and stretches[-1].source == source and stretches[-1].stop == start:
                stretches[-1] = stretches[-1]._replace(stop=stop)
            else:
                stretches.append(Stretch(source, start, stop))
        return stretches


class EpochPlan(BlockSequence):
    """The blocks of all sources, shuffled together.

    Args:
        names: names of the sources.
        sizes: number of cells used of each source.
        seed: seed of the corpus.
        epoch: number of the epoch.
        block_size: cells of a block.
        window_size: cells of a window; only the last one may be smaller.
        shuffle: False = all cells in the order of the sources.
    """

    def __init__(
        self,
        names: Sequence[str],
        sizes: Sequence[int],
        *,
        seed: int,
        epoch: int,
        block_size: int,
        window_size: int,
        shuffle: bool = True,
    ) -> None:
        blocks = [-(-size // block_size) for size in sizes]
        numbers = [np.arange(count) for count in blocks]
        sources = np.repeat(np.arange(len(sizes)), blocks)
        starts = np.concatenate([*numbers, np.empty(0, np.int64)]).astype(np.int64) * block_size
        stops = np.minimum(starts + block_size, np.asarray(sizes, np.int64)[sources])
        if shuffle:
            ids = [block_ids(name, block) for name, block in zip(names, numbers, strict=True)]
            order = np.argsort(cell_keys(np.concatenate(ids), seed, epoch), kind="stable")
            sources, starts, stops = sources[order], starts[order], stops[order]
        super().__init__(sources, starts, stops, window_size)


def arrange(
    ids: np.ndarray, lengths: np.ndarray | None, *, group_size: int, seed: int, epoch: int, shuffle: bool = True
) -> np.ndarray:
    """The order of the cells of a window.

    Cells are shuffled; then, when `lengths` are given, cells of about the same length are put together in groups of
    `group_size`, and the groups are shuffled. Cells left over when groups are full come last.

    Args:
        ids: (cells,) uint64 cell ids.
        lengths: (cells,) tokens of each cell; None = do not group.
        group_size: cells of a group.
        seed: seed of the corpus.
        epoch: number of the epoch.
        shuffle: False = keep the order given, or the order of length when lengths are given.

    Returns:
        (cells,) int64 positions.
    """
    keys = cell_keys(ids, seed, epoch)
    order = np.argsort(keys, kind="stable") if shuffle else np.arange(len(ids))
    if lengths is None:
        return order
    if not shuffle:
        return np.argsort(lengths, kind="stable")
    n_groups = len(ids) // group_size
    rest = order[n_groups * group_size :]
    places = np.argsort(lengths[order[: n_groups * group_size]], kind="stable").reshape(n_groups, group_size)
    # back in shuffled order inside a group; the group of the cell that the shuffle put first comes first
    places = np.sort(places, axis=1)
    places = places[np.argsort(places[:, 0], kind="stable")] if n_groups else places
    return np.concatenate([order[places.ravel()], rest])


def _ids(name: str, numbers: np.ndarray, kind: int) -> np.ndarray:
    return cell_keys(numbers, int(hash_names([name])[0]), kind)
