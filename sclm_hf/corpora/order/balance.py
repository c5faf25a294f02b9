"""Balanced epochs: rare labels come more often than their cells would, and small sources more often than their share.

An epoch hands out as many cells as the corpus has. A source (a sample) of n of them gets a share that grows with √n;
in it, a cell's weight is the number of cells with its label to a power. Cells come again where their weight asks for
it, and draw anew each time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ConfigurationError
from ...tokenization.encodings.keys import Stream, cell_keys, uniforms_for
from .plan import Drawn, EpochPlan, cells_of, row_ids

if TYPE_CHECKING:
    from ..contents import Contents

_AGAIN = 3
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Balance:
    """How often the cells of a source come.

    Attributes:
        power: of the number of cells with the same label; 0 = all cells alike, -1 = all labels alike.
        labels: for each source, (cells,) numbers of the labels of the cells used.

    Raises:
        ConfigurationError: the power is not between -1 and 0.
    """

    power: float
    labels: Sequence[np.ndarray]

    def __post_init__(self) -> None:
        if not -1 <= self.power <= 0:
            raise ConfigurationError(
                "`balance_labels` must lie between -1 (all labels alike) and 0 (all cells of a source alike), got "
                f"{self.power}."
            )

    def drawn(
        self, source: int, cells: np.ndarray, n_draws: int, ids: np.ndarray, *, seed: int, epoch: int
    ) -> np.ndarray:
        """Which cells of a source, or of a sample in it, come in an epoch.

        Each comes as often as its weight asks for, rounded up or down by chance.

        Args:
            source: number of the source.
            cells: (cells,) ascending positions among the cells used of it.
            n_draws: how many are drawn.
            ids: (cells,) uint64, what the draws are keyed by.
            seed, epoch: of the draws.

        Returns:
            (n_draws,) int64 ascending positions, some of them more than once.
        """
        _, labels, n_cells = np.unique(self.labels[source][cells], return_inverse=True, return_counts=True)
        keys = cell_keys(ids, seed, epoch)
        order = np.argsort(keys, kind="stable")
        times = np.empty(len(cells), np.int64)
        offset = uniforms_for(keys[:1], Stream.BALANCE, 1)[0, 0]
        times[order] = shared_out(n_draws, n_cells[labels[order]] ** float(self.power), offset)
        return np.repeat(cells, times)


class BalancedPlan(EpochPlan):
    """The blocks of all sources, shuffled together; a block holds cells drawn of its source, ascending.

    Args:
        contents: the corpus.
        balance: how often its cells come.
        epoch: number of the epoch.
        window_size: cells of a window; only the last one may be smaller.
    """

    def __init__(self, contents: "Contents", balance: Balance, *, epoch: int, window_size: int) -> None:
        self._contents, self._balance, self._keys = contents, balance, {"seed": contents.seed, "epoch": epoch}
        self._n_draws = shared_out(len(contents), np.sqrt(contents.sizes))
        self._drawn: dict[int, np.ndarray] = {}
        super().__init__(
            [source.name for source in contents.sources],
            self._n_draws.tolist(),
            window_size=window_size,
            block_size=contents.block_size,
            **self._keys,
        )

    def cells(self, number: int) -> dict[int, Drawn]:
        """The cells of a window, and how often each came before in the epoch."""
        found = {}
        for source, places in cells_of(self.window(number)).items():
            drawn = self._drawn_of(source)
            positions = drawn[places]
            found[source] = Drawn(positions, places - np.searchsorted(drawn, positions))
        return found

    def _drawn_of(self, source: int) -> np.ndarray:
        if source not in self._drawn:
            cells = np.arange(self._contents.sizes[source])
            ids = row_ids(self._contents.sources[source].name, self._contents.rows_at(source, cells))
            n_draws = int(self._n_draws[source])
            self._drawn[source] = self._balance.drawn(source, cells, n_draws, ids, **self._keys)
        return self._drawn[source]


def shared_out(total: int, weights: np.ndarray, offset: float = 0.5) -> np.ndarray:
    """(entries,) int64 parts of `total` in proportion to `weights`, each rounded up or down as `offset` falls."""
    ends = np.floor(np.cumsum(weights) / weights.sum() * total + offset).astype(np.int64)
    ends[-1] = total
    return np.diff(ends, prepend=0)


def ids_again(ids: np.ndarray, repeats: np.ndarray | None) -> np.ndarray:
    """What cells are keyed by that came before in the epoch, so that they draw anew.

    Args:
        ids: (cells,) uint64.
        repeats: (cells,) how often each came before; None = never.
    """
    if repeats is None or not repeats.any():
        return ids
    again = cell_keys(ids ^ (repeats.astype(np.uint64) * _GOLDEN), 0, _AGAIN)
    return np.where(repeats == 0, ids, again)
