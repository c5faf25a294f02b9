"""Batches that are complete already, with their labels."""

from typing import Any

import torch


class CompleteCollator:
    """Makes tensors of such batches; draws nothing."""

    def __call__(self, batch: dict[str, Any], epoch: int | None = None) -> dict[str, torch.Tensor]:
        """The batch as tensors."""
        return {name: torch.as_tensor(values) for name, values in batch.items()}

    def forward_arguments(self, step: int) -> dict[str, Any]:
        """Nothing: the model is called in the same way at every step."""
        return {}
