"""Base class of configurations that look at their numbers."""

from transformers import PreTrainedConfig

from .soundness import out_of_range


class CheckedConfig(PreTrainedConfig):
    """A configuration that refuses numbers which no model can have, wherever they come from."""

    def validate_amounts(self):
        """Refuse numbers that are out of range."""
        # validators run in the order of their names: `validate_architecture` divides by these
        if wrong := out_of_range(vars(self)):
            raise ValueError(wrong)


__all__ = ["CheckedConfig"]
