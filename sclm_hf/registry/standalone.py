"""The record of a model that neither belongs to a family nor has a processor."""

from dataclasses import dataclass

from .family import ModelFolder


@dataclass(frozen=True)
class Standalone(ModelFolder):
    """What the package knows about one such model.

    Attributes:
        name: the `model_type`, and the folder below `modeling/`.
        config: name of the configuration class.
        auto_classes: transformers Auto class -> our class.
        models: every public model class.
    """

    name: str
    config: str
    auto_classes: dict[str, str]
    models: tuple[str, ...]
