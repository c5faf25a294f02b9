"""Where the encoded cells of a window lie: memory that is filled again for a later window."""

import threading
from collections.abc import Callable

import numpy as np

from ..tokenization.encodings.cells import CellTokens

_HEADROOM = 1.1

Allocate = Callable[[int, type, np.ndarray], np.ndarray]
"""Makes a flat array, given its number of entries, their type, and the array that it replaces."""


def allocate(size: int, dtype: type, instead_of: np.ndarray) -> np.ndarray:
    """A new array in memory of this process."""
    return np.empty(size, dtype)


class TokenBuffer:
    """Encoded cells, put side by side by several threads in any order.

    Args:
        allocate: makes the memory.
    """

    def __init__(self, allocate: Allocate = allocate) -> None:
        self._allocate, self._lock = allocate, threading.Lock()
        self._ids, self._values = np.empty(0, np.int32), np.empty(0, np.float32)
        self.clear(0)

    def clear(self, n_cells: int) -> None:
        """Forget what is there and make room for the places of `n_cells` cells."""
        self._n_cells, self._n_put = n_cells, 0
        self._used, self._used_values = 0, 0
        self._starts, self._lengths = np.empty(n_cells, np.int64), np.empty(n_cells, np.int64)

    def put(self, tokens: CellTokens, places: slice) -> None:
        """Copy cells that lie one after the other; `places` are theirs among the cells of the window."""
        n, n_values = tokens.ids.size, tokens.values.size
        with self._lock:
            self._n_put += tokens.lengths.size
            start, self._used, self._used_values = self._used, self._used + n, self._used_values + n_values
            self._ids = self._grown(self._ids, start, self._used)
            self._values = self._grown(self._values, self._used_values - n_values, self._used_values)
            self._ids[start : self._used] = tokens.ids
            if n_values:
                self._values[start : self._used] = tokens.values
        self._starts[places] = tokens.starts + start
        self._lengths[places] = tokens.lengths

    @property
    def tokens(self) -> CellTokens:
        """The cells, as views of arrays that begin where the memory made by `allocate` does."""
        return CellTokens(self._ids[: self._used], self._values[: self._used_values], self._starts, self._lengths)

    def _grown(self, array: np.ndarray, used: int, needed: int) -> np.ndarray:
        if array.size >= needed:
            return array
        expected = needed * self._n_cells / self._n_put
        larger = self._allocate(int(expected * _HEADROOM), array.dtype.type, array)
        larger[:used] = array[:used]
        return larger
