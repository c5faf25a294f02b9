"""Memory that is filled again: the system clears every page of fresh memory, which costs more than filling it."""

import numpy as np

_HEADROOM = 1.2


class Scratch:
    """Arrays by name, each overwritten by the next request of its name and type. For one thread alone."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, np.dtype], np.ndarray] = {}

    def empty(self, name: str, size: int, dtype: type | np.dtype) -> np.ndarray:
        """(size,) entries of any content."""
        key = name, np.dtype(dtype)
        array = self._arrays.get(key)
        if array is None or array.size < size:
            # A first request is met exactly: most scratches serve a single one.
            array = np.empty(size if array is None else int(size * _HEADROOM), dtype)
            self._arrays[key] = array
        return array[:size]
