"""How a worker hands a window to the main process: through shared memory that it fills again and again.

Fresh shared memory costs more than filling it: the system clears every page. So a worker fills the same buffers in
turn. With `n` of them, it is asked for `n - 1` windows beyond the one that the main process reads, and for one more
only when that one has been read: no buffer is filled while it is read.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch

_ALIGNMENT = 64
_HEADROOM = 1.1

N_BUFFERS = 2
"""Windows that lie in the shared memory of a worker."""

Batch = dict[str, torch.Tensor]


class Parcel(NamedTuple):
    """The batches of a window in a buffer of bytes.

    Attributes:
        buffer: (bytes,) uint8, shared.
        tables: name -> (type, shape, first byte), for each batch.
    """

    buffer: torch.Tensor
    tables: list[dict[str, tuple[torch.dtype, tuple[int, ...], int]]]

    def opened(self) -> Iterator[Batch]:
        """The batches, read where they lie."""
        for table in self.tables:
            yield {name: _view(self.buffer, *place) for name, place in table.items()}


class SharedBatches:
    """Buffers of shared memory for batches, filled in turn."""

    def __init__(self) -> None:
        self._buffers = [torch.empty(0, dtype=torch.uint8)] * N_BUFFERS

    def parcel(self, batches: Iterable[Batch], n_batches: int) -> Parcel:
        """Copy batches into the buffer whose turn it is, each as soon as it is made.

        Args:
            batches: the batches of a window.
            n_batches: how many there are.
        """
        self._buffers.append(self._buffers.pop(0))
        tables, end = [], 0
        for number, batch in enumerate(batches):
            start, table = end, {}
            for name, values in batch.items():
                table[name] = (values.dtype, tuple(values.shape), end)
                end += -(-values.numel() * values.dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
            if self._buffers[0].numel() < end:
                expected = int(end * n_batches / (number + 1) * _HEADROOM)
                self._buffers[0] = _larger(self._buffers[0][:start], expected)
            for name, values in batch.items():
                _view(self._buffers[0], *table[name]).copy_(values)
            tables.append(table)
        return Parcel(self._buffers[0], tables)


def _larger(used: torch.Tensor, size: int) -> torch.Tensor:
    """Shared memory of `size` bytes that begins with those used."""
    larger = torch.empty(size, dtype=torch.uint8).share_memory_()
    larger[: used.numel()] = used
    return larger


def _view(buffer: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], start: int) -> torch.Tensor:
    size = int(np.prod(shape)) * dtype.itemsize
    return buffer[start : start + size].view(dtype).view(shape)
