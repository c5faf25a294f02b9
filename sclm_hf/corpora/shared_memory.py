"""How a worker hands a window to the main process: through shared memory that it fills again and again.

Fresh shared memory costs more than filling it: the system clears every page. So a worker fills the same buffers in
turn. With `n` of them, it is asked for `n - 1` windows beyond the one that the main process reads, and for one more
only when that one has been read: no buffer is filled while it is read.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from .window_reader import Window

_ALIGNMENT = 64
_HEADROOM = 1.1

N_BATCH_BUFFERS = 2
"""Windows of batches that lie in shared memory: padded ones are large."""

Batch = dict[str, torch.Tensor]


class SharedArrays:
    """Makes arrays in shared memory, and finds the tensor behind one again."""

    def __init__(self) -> None:
        self._tensors: dict[int, torch.Tensor] = {}

    def allocate(self, size: int, dtype: type, instead_of: np.ndarray) -> np.ndarray:
        """A new array in shared memory, which takes the place of another one."""
        self._tensors.pop(instead_of.ctypes.data, None)
        tensor = torch.from_numpy(np.empty(0, dtype)).new_empty(size).share_memory_()
        self._tensors[tensor.data_ptr()] = tensor
        return tensor.numpy()

    def behind(self, array: np.ndarray) -> torch.Tensor:
        """The tensor of which `array` is the beginning."""
        return self._tensors[array.ctypes.data] if array.size else torch.from_numpy(array)


class WindowParcel(NamedTuple):
    """A window whose encoded cells lie in shared memory.

    Attributes:
        ids, values: tensors in shared memory, longer than what is used of them.
        sizes: how much of `ids` and of `values` is used.
        window: the window without them.
    """

    ids: torch.Tensor
    values: torch.Tensor
    sizes: tuple[int, int]
    window: Window

    @classmethod
    def wrap(cls, window: Window, shared: SharedArrays) -> "WindowParcel":
        """A window whose tokens `shared` allocated."""
        tokens, nothing = window.tokens, np.empty(0)
        sizes = tokens.ids.size, tokens.values.size
        light = window._replace(tokens=tokens._replace(ids=nothing, values=nothing))
        return cls(shared.behind(tokens.ids), shared.behind(tokens.values), sizes, light)

    @property
    def buffers(self) -> tuple[torch.Tensor, ...]:
        """What is mapped."""
        return self.ids, self.values

    def opened(self) -> Window:
        """The window, read where it lies."""
        ids, values = (flat.numpy()[:size] for flat, size in zip((self.ids, self.values), self.sizes, strict=True))
        return self.window._replace(tokens=self.window.tokens._replace(ids=ids, values=values))


class BatchParcel(NamedTuple):
    """Batches of tensors in a buffer of bytes.

    Attributes:
        buffer: (bytes,) uint8, shared.
        tables: name -> (type, shape, first byte), for each batch.
    """

    buffer: torch.Tensor
    tables: list[dict[str, tuple[torch.dtype, tuple[int, ...], int]]]

    @property
    def buffers(self) -> tuple[torch.Tensor, ...]:
        """What is mapped."""
        return (self.buffer,)

    def opened(self) -> Iterator[Batch]:
        """The batches, in memory of their own."""
        for table in self.tables:
            yield {name: _view(self.buffer, *place).clone() for name, place in table.items()}


class SharedBatches:
    """Buffers of shared memory for batches, filled in turn."""

    def __init__(self) -> None:
        self._buffers = [torch.empty(0, dtype=torch.uint8)] * N_BATCH_BUFFERS

    def parcel(self, batches: Sequence[Batch]) -> BatchParcel:
        """Copy batches into the buffer whose turn it is."""
        tables, end = [], 0
        for batch in batches:
            tables.append({})
            for name, values in batch.items():
                tables[-1][name] = (values.dtype, tuple(values.shape), end)
                end += -(-values.numel() * values.dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        self._buffers.append(self._buffers.pop(0))
        if self._buffers[0].numel() < end:
            self._buffers[0] = torch.empty(int(end * _HEADROOM), dtype=torch.uint8).share_memory_()
        for batch, table in zip(batches, tables, strict=True):
            for name, values in batch.items():
                _view(self._buffers[0], *table[name]).copy_(values)
        return BatchParcel(self._buffers[0], tables)


def _view(buffer: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], start: int) -> torch.Tensor:
    size = int(np.prod(shape)) * dtype.itemsize
    return buffer[start : start + size].view(dtype).view(shape)
