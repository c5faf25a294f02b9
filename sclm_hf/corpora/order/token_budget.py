"""Batches of at most so many tokens, cut from the windows of an epoch."""

from typing import NamedTuple

import numpy as np

from ...errors import ConfigurationError
from ...tokenization.encodings.keys import cell_keys
from .plan import check_share


class TokenSchedule(NamedTuple):
    """The batches of an epoch that one rank reads when the tokens of a batch are limited.

    How many batches a window holds shows only when it has been read. So the ranks share the batches of each window
    anew; where the last of them do not go round, the other ranks get an empty batch, and all ranks have as many.

    Attributes:
        n_cells: cells of the corpus.
        batch_size: most cells of a batch.
        max_tokens: most tokens of a batch: its cells × the length of the longest.
        window_size: cells of a window.
        start: cells of the epoch that all ranks together have been handed already.
        rank: number of this rank.
        world_size: number of ranks.
    """

    n_cells: int
    batch_size: int
    max_tokens: int
    window_size: int
    start: int
    rank: int
    world_size: int

    @classmethod
    def make(
        cls,
        n_cells: int,
        batch_size: int,
        max_tokens: int,
        *,
        window_size: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> "TokenSchedule":
        """The share of a rank from cell `start` on.

        Raises:
            ConfigurationError: a size is not positive, the rank is not among the ranks, or there is no cell `start`.
        """
        sizes = {"batch_size": batch_size, "max_tokens_per_batch": max_tokens, "window_size": window_size}
        check_share(n_cells, sizes, start=start, rank=rank, world_size=world_size)
        return cls(n_cells, batch_size, max_tokens, window_size, start, rank, world_size)

    @property
    def order_settings(self) -> tuple[int, ...]:
        """What the order of cells depends on."""
        return (self.window_size, self.batch_size, self.max_tokens)

    @property
    def n_batches(self) -> int:
        """Unknown.

        Raises:
            TypeError: always: with a token limit the number of batches is known only after reading.
        """
        raise TypeError("With `max_tokens_per_batch` the number of batches shows only when the cells have been read.")

    def windows(self) -> range:
        """The windows in which the rank has batches."""
        last = -(-self.n_cells // self.window_size)
        return range(self.start // self.window_size, last) if self.start < self.n_cells else range(0)

    def reads(self, window: int) -> bool:
        """Whether the rank has batches in a window."""
        return window in self.windows()

    def batches(
        self, window: int, ids: np.ndarray, lengths: np.ndarray, *, grouped: bool, shuffle: bool, seed: int, epoch: int
    ) -> list[np.ndarray]:
        """The rank's batches of a window, as positions of cells, empty where other ranks have one more.

        Args:
            window: number of the window.
            ids: (cells,) uint64 ids of all its cells.
            lengths: (cells,) their tokens, none above `max_tokens`.
            grouped, shuffle, seed, epoch: as for `pack`.

        Raises:
            ConfigurationError: no batch begins at `start`.
        """
        limits = {"max_tokens": self.max_tokens, "max_cells": self.batch_size}
        batches = pack(ids, lengths, **limits, grouped=grouped, shuffle=shuffle, seed=seed, epoch=epoch)
        begins = np.cumsum([0, *map(len, batches)]) + window * self.window_size
        first = int(np.searchsorted(begins, self.start))
        if self.start > begins[0] and begins[first] != self.start:
            raise ConfigurationError(
                f"No batch of at most {self.max_tokens} tokens and {self.batch_size} cells begins at cell "
                f"{self.start}: an epoch is resumed where a batch ended, with the limits that it began with."
            )
        rest = batches[first:]
        mine = rest[self.rank :: self.world_size]
        rounds = -(-len(rest) // self.world_size)
        return mine + [np.empty(0, np.int64)] * (rounds - len(mine))


def pack(
    ids: np.ndarray,
    lengths: np.ndarray,
    *,
    max_tokens: int,
    max_cells: int,
    grouped: bool,
    shuffle: bool,
    seed: int,
    epoch: int,
) -> list[np.ndarray]:
    """Cut the cells of a window into batches.

    Args:
        ids: (cells,) uint64 cell ids.
        lengths: (cells,) tokens of each cell, none above `max_tokens`.
        max_tokens: most tokens of a batch: its cells × the length of the longest.
        max_cells: most cells of a batch.
        grouped: put cells of similar length together.
        shuffle: False = keep the order given, or the order of length when `grouped`.
        seed: seed of the corpus.
        epoch: number of the epoch.

    Returns:
        The batches in their order, each (cells,) int64 positions.
    """
    order = np.argsort(cell_keys(ids, seed, epoch), kind="stable") if shuffle else np.arange(len(ids))
    places = np.argsort(lengths[order], kind="stable") if grouped else np.arange(len(ids))
    batches = np.split(places, cuts(lengths[order][places], max_tokens, max_cells))
    if grouped and shuffle:
        # back in shuffled order inside a batch; the batch of the cell that the shuffle put first comes first
        batches = sorted((np.sort(batch) for batch in batches), key=lambda batch: batch[0])
    return [order[batch] for batch in batches]


def cuts(lengths: np.ndarray, max_tokens: int, max_cells: int) -> list[int]:
    """Where cells in their order are cut so that each batch is as large as the limits allow."""
    found, begin, longest = [], 0, 0
    for place, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        if longest * (place + 1 - begin) > max_tokens or place - begin == max_cells:
            found.append(place)
            begin, longest = place, length
    return found
