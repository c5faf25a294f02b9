"""Base class of configurations that look at their numbers."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig


class CheckedConfig(PreTrainedConfig):
    """A configuration that refuses numbers which no model can have, wherever they come from."""

    def validate_amounts(self):
        """Refuse numbers that are out of range."""
        # validators run in the order of their names: `validate_architecture` divides by these
        if wrong := out_of_range(vars(self)):
            raise ValueError(wrong)


def out_of_range(settings: Mapping[str, Any]) -> str | None:
    """What is wrong with a number in settings that no model can have; None if nothing is.

    Args:
        settings: a configuration.
    """
    for key, value in settings.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if "dropout" in key and not 0 <= value <= 1:
            return f"`{key}` must be from 0 to 1, got {value}."
        least = 1 if key in ("num_hidden_layers", "num_attention_heads") else 0
        if (key.startswith("num_") or key.endswith("_size")) and value < least:
            return f"`{key}` must be at least {least}, got {value}."
    return None


__all__ = ["CheckedConfig"]
