"""Settings of training a model of perturbations, beside those of every training run."""

from dataclasses import dataclass

from ...errors import ConfigurationError
from ..arguments import option


@dataclass
class PerturbationArguments:
    """How cells become examples, and how large a new model is.

    Raises:
        ConfigurationError: a value is out of range.
    """

    model_config: str | None = option(None, "Settings of the configuration of a new model, as JSON.")
    max_length: int = option(
        1536,
        "Most genes per cell, for models that read tokens: others are drawn anew in every epoch, and perturbed genes "
        "are always among them.",
    )
    cells_per_set: int = option(64, "Cells per set, for the set model.")

    def __post_init__(self) -> None:
        if self.max_length < 2 or self.cells_per_set < 2:
            raise ConfigurationError(
                f"`max_length` and `cells_per_set` must be at least 2, got {self.max_length} and {self.cells_per_set}."
            )
