"""What weights must be, whoever wrote them: of the right kind, finite, and as large as their settings say."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sclm_hf.errors import CheckpointError

_LARGEST = 2**20
"""A number in settings may be as large as this whatever the weights are."""


def number_kind(tensor: Tensor) -> str:
    """`"float"`, `"integer"`, `"boolean"` or `"complex"`."""
    if tensor.dtype == torch.bool:
        return "boolean"
    return "float" if tensor.is_floating_point() else "complex" if tensor.is_complex() else "integer"


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite; the extremes of what holds a NaN are NaN, and quick to find."""
    if tensor.numel() == 0 or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    extremes = torch.stack(torch.aminmax(tensor.detach())) if tensor.is_floating_point() else tensor
    return bool(torch.isfinite(extremes).all())


def require_plausible(name: Any, settings: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse settings of a model larger than its weights could be, before it is built.

    Args:
        name: of the checkpoint.
        settings: its configuration.
        shapes: name of each tensor -> its shape.

    Raises:
        CheckpointError: names the setting.
    """
    held = sum(math.prod(shape) for shape in shapes.values())
    for key, value in settings.items():
        numbers = [number for number in (value if isinstance(value, list) else [value]) if type(number) is int]
        most = len(shapes) if "layer" in key else max(_LARGEST, held)
        if len(numbers) > max(len(shapes), 1) or any(number > most for number in numbers):
            shown = f"{max(numbers):,}" if len(numbers) == 1 else f"{len(numbers):,} numbers up to {max(numbers):,}"
            raise CheckpointError(
                f"`{name}` does not fit its configuration: `{key}` is {shown}, and the weights are {len(shapes):,} "
                f"tensors of {held:,} numbers together."
            )


def without_memory(model_class: type[nn.Module], config: Any) -> nn.Module:
    """A model that knows the shapes of its tensors and holds none; no random number is drawn."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return model_class(config)
