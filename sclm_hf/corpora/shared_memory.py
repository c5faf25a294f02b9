"""How a worker hands the batches of a window to the main process: through shared memory that it fills again and again.

Fresh shared memory costs more than filling it: the system clears every page. So a worker keeps two buffers and fills
them in turn, while the main process copies what it receives. A worker gets its next window but one only after the main
process has asked for the batches beyond the first, so no buffer is filled while it is read.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from .packing import Packed, Shapes

_ALIGNMENT = 64
_HEADROOM = 1.1


class Parcel(NamedTuple):
    """Packed batches in a buffer of bytes.

    Attributes:
        buffer: (bytes,) uint8, shared.
        table: name -> (type, first byte, number of bytes) of its entries.
        shapes: as in [`Packed`].
    """

    buffer: torch.Tensor
    table: dict[str, tuple[torch.dtype, int, int]]
    shapes: Shapes


class SharedBuffers:
    """Two buffers of shared memory, filled in turn."""

    def __init__(self) -> None:
        self._buffers = [torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.uint8)]
        self._table: dict[str, tuple[torch.dtype, int, int]] = {}

    def tensors(self, sizes: Mapping[str, tuple[torch.dtype, int]]) -> dict[str, torch.Tensor]:
        """Flat tensors, given name -> (type, entries), in the buffer whose turn it is."""
        self._table, end = {}, 0
        for name, (dtype, size) in sizes.items():
            self._table[name] = (dtype, end, size * dtype.itemsize)
            end += -(-size * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        self._buffers.reverse()
        if self._buffers[0].numel() < end:
            self._buffers[0] = torch.empty(int(end * _HEADROOM), dtype=torch.uint8).share_memory_()
        return {name: _view(self._buffers[0], *place) for name, place in self._table.items()}

    def arrays(self, sizes: Mapping[str, tuple[type, int]]) -> dict[str, np.ndarray]:
        """The same as numpy arrays."""
        types = {name: (torch.from_numpy(np.empty(0, dtype)).dtype, size) for name, (dtype, size) in sizes.items()}
        return {name: tensor.numpy() for name, tensor in self.tensors(types).items()}

    def parcel(self, shapes: Shapes) -> Parcel:
        """What was made last, for the main process."""
        return Parcel(self._buffers[0], self._table if any(shapes) else {}, shapes)


def received(parcel: Parcel) -> Packed:
    """A copy of the batches in memory of this process."""
    flat = {}
    for name, (dtype, start, size) in parcel.table.items():
        # numpy asks for large pages, torch does not: that halves the time.
        flat[name] = torch.from_numpy(np.empty(size, np.uint8)).copy_(parcel.buffer[start : start + size]).view(dtype)
    return Packed(flat, parcel.shapes)


def _view(buffer: torch.Tensor, dtype: torch.dtype, start: int, size: int) -> torch.Tensor:
    return buffer[start : start + size].view(dtype)
