"""Memory that is filled again: the system clears every page of fresh memory, which costs more than filling it."""

from collections import deque

import numpy as np

_HEADROOM = 1.2

_returned: deque[np.ndarray] = deque(maxlen=2)


class Scratch:
    """Arrays by name, each overwritten by the next request of its name and type. For one thread alone."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, np.dtype], np.ndarray] = {}

    def empty(self, name: str, size: int, dtype: type | np.dtype) -> np.ndarray:
        """(size,) entries of any content."""
        key = name, np.dtype(dtype)
        array = self._arrays.get(key)
        if array is None or array.size < size:
            # a first request is met exactly: most scratches serve a single one
            array = np.empty(size if array is None else int(size * _HEADROOM), dtype)
            self._arrays[key] = array
        return array[:size]


class _Loan:
    """Memory that waits for the next borrower when no array is left that looks at it."""

    def __init__(self, memory: np.ndarray, returned: deque[np.ndarray]) -> None:
        self._memory, self._returned = memory, returned
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._returned.append(self._memory)


def lent(size: int) -> np.ndarray:
    """(size,) bytes of any content, in memory that an earlier loan gave back if that is large enough.

    An array, and every view and tensor of it, may be kept as long as wanted: its memory is not lent again before the
    last of them is gone.
    """
    try:
        memory = _returned.popleft()
    except IndexError:
        memory = np.empty(0, np.uint8)
    if memory.size < size:
        memory = np.empty(size, np.uint8)
    return np.asarray(_Loan(memory, _returned))[:size]
