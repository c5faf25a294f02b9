"""How a language model reads cells as soft tokens."""

import dataclasses
from dataclasses import dataclass

from ...errors import ConfigurationError
from ..arguments import option


@dataclass
class CellTextArguments:
    """The encoder whose cells a language model reads as soft tokens, and how it gets to read them.

    Raises:
        ConfigurationError: a number is out of range, or other settings are given without `cell_model`.
    """

    cell_model: str | None = option(
        None,
        "Fine-tune a language model, `model_name_or_path`, that reads cells as soft tokens: folder or repository of "
        "the model of cells that encodes them. It stays as it is.",
    )
    num_cell_tokens: int = option(8, "With `cell_model`: soft tokens of a cell.")
    projector: str = option("mlp", "With `cell_model`: what makes them, `mlp` or `resampler`.")
    projector_epochs: int = option(
        1,
        "With `cell_model`: passes over the corpus in which the projector learns alone, before the language model "
        "does.",
    )

    def __post_init__(self) -> None:
        if self.num_cell_tokens < 1 or self.projector_epochs < 0:
            raise ConfigurationError("`num_cell_tokens` must be at least 1, and `projector_epochs` at least 0.")
        changed = [one.name for one in dataclasses.fields(self) if getattr(self, one.name) != one.default]
        if self.cell_model is None and changed:
            raise ConfigurationError(f"`{changed[0]}` is for soft tokens: give `cell_model` (`--cell_model`) too.")
