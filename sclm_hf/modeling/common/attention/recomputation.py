"""Chunks whose activations are computed again for gradients, so that memory does not grow with their number."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def run_directly(function: Callable, *arguments: Any) -> Any:
    return function(*arguments)


def recomputed(function: Callable, *arguments: Any) -> Any:
    """`function(*arguments)`; what it would keep for gradients is computed again when they are asked for."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False)
