"""Batches in narrow types: what is smaller is sooner written, handed over, and moved to an accelerator."""

import numpy as np
import torch

from ...tokenization.encodings.scratch import lent

Batch = dict[str, torch.Tensor]

_WIDE = {
    torch.uint8: torch.int64,
    torch.uint16: torch.int64,
    torch.int32: torch.int64,
    torch.int16: torch.float32,
}


class NarrowBatch(Batch):
    """A batch in which uint8, uint16 and int32 stand for int64, and int16 for float32; other types are as they are."""

    def widened(self) -> Batch:
        """The batch in the types that models take, on the device where it is."""
        narrow = {name: tensor for name, tensor in self.items() if tensor.dtype in _WIDE}
        if any(tensor.device.type != "cpu" for tensor in narrow.values()):
            return {**self, **{name: tensor.to(_WIDE[tensor.dtype]) for name, tensor in narrow.items()}}
        return {**self, **_widened_here(narrow)}


def _widened_here(narrow: Batch) -> Batch:
    """Tensors of this process in wide types, side by side in one piece of memory.

    By numpy: Torch would wake threads for each of them, which wait for one another where workers use the same cores.
    """
    wide, room = {}, lent(sum(tensor.numel() * _WIDE[tensor.dtype].itemsize for tensor in narrow.values()))
    # those of larger numbers come first, so that all begin where their type may
    for name, tensor in sorted(narrow.items(), key=lambda item: -_WIDE[item[1].dtype].itemsize):
        kind = _WIDE[tensor.dtype]
        size = tensor.numel() * kind.itemsize
        out, room = torch.from_numpy(room[:size]).view(kind).view(tensor.shape), room[size:]
        np.copyto(out.numpy(), tensor.numpy())
        wide[name] = out
    return wide
