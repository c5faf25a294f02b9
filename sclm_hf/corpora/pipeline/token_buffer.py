"""Where the encoded cells of a window lie: memory that is filled again for a later window."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...tokenization.encodings.cells import CellTokens

_HEADROOM = 1.1


class TokenBuffer:
    """Encoded cells, put side by side by several threads in any order.

    Args:
        types: of ids and values, as from `CellProcessor.token_types`.
        empty: makes their memory, given size and type: numpy's, or a function that returns tensors.
    """

    def __init__(self, types: tuple[type, type] = (np.int32, np.float32), empty: Callable = np.empty) -> None:
        self._changed, self._n_filling = threading.Condition(), 0
        self._types, self._empty = types, empty
        self._ids, self._values = (empty(0, kind) for kind in types)
        self.clear(0)

    def clear(self, n_cells: int) -> None:
        """Forget what is there and make room for the places of `n_cells` cells."""
        self._n_cells, self._n_put = n_cells, 0
        self._used, self._used_values = 0, 0
        self._starts, self._lengths = np.empty(n_cells, np.int64), np.empty(n_cells, np.int64)

    def put(self, tokens: CellTokens, places: slice) -> None:
        """Copy cells that lie one after the other; `places` are theirs among the cells of the window."""
        with self.room(tokens.lengths, places, with_values=tokens.values.size > 0) as out:
            start, n = (out.starts[0], tokens.ids.size) if out.starts.size else (0, 0)
            out.ids[start : start + n] = tokens.ids
            out.values[start : start + n] = tokens.values
            out.lengths[:] = tokens.lengths

    @contextmanager
    def room(self, lengths: np.ndarray, places: slice, *, with_values: bool) -> Iterator[CellTokens]:
        """Where cells are to be written, one after the other, while others may be written elsewhere.

        Args:
            lengths: (cells,) how many tokens they have at most.
            places: of the cells among those of the window.
            with_values: whether they have values.

        Yields:
            The buffer's ids and values, where the cells are to begin there, and lengths to fill in.
        """
        n = int(lengths.sum())
        with self._changed:
            self._n_put += lengths.size
            start, self._used = self._used, self._used + n
            self._used_values += n if with_values else 0
            # no array is replaced while another thread writes into it
            while self._n_filling and self._is_short():
                self._changed.wait()
            self._ids = self._grown(self._ids, self._used, self._types[0])
            self._values = self._grown(self._values, self._used_values, self._types[1])
            ids, values = np.asarray(self._ids), np.asarray(self._values)
            self._n_filling += 1
        self._starts[places] = lengths.cumsum() - lengths + start
        try:
            yield CellTokens(ids, values, self._starts[places], self._lengths[places])
        finally:
            with self._changed:
                self._n_filling -= 1
                self._changed.notify_all()

    @property
    def tokens(self) -> CellTokens:
        """The cells, as views, of the kind that `empty` makes, of the memory that the next [`clear`] gives up."""
        return CellTokens(self._ids[: self._used], self._values[: self._used_values], self._starts, self._lengths)

    def _is_short(self) -> bool:
        return len(self._ids) < self._used or len(self._values) < self._used_values

    def _grown(self, memory: Any, needed: int, dtype: type) -> Any:
        if len(memory) >= needed:
            return memory
        expected = needed * self._n_cells / self._n_put
        # cells whose room was given up come a second time, so more may be needed than is expected
        larger = self._empty(max(needed, int(expected * _HEADROOM)), dtype)
        np.asarray(larger)[: len(memory)] = memory
        return larger
