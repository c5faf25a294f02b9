"""Batches in narrow types: what is smaller is sooner written, handed over, and moved to an accelerator."""

import torch

Batch = dict[str, torch.Tensor]

_WIDE = {
    torch.uint8: torch.int64,
    torch.uint16: torch.int64,
    torch.int32: torch.int64,
    torch.int16: torch.float32,
}


class NarrowBatch(Batch):
    """A batch in which uint8, uint16 and int32 stand for int64, and int16 for float32; other types are as they are."""

    def widened(self, *, copy: bool = False) -> Batch:
        """The batch in the types that models take, on the device where it is.

        Args:
            copy: make copies of tensors that have their type already.
        """
        return {name: tensor.to(_WIDE.get(tensor.dtype, tensor.dtype), copy=copy) for name, tensor in self.items()}
