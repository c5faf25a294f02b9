"""What kind of model a model is."""

from typing import Any

from ..errors import CheckpointError
from ..registry import FAMILIES


def inner_model(model: Any) -> Any:
    """The model inside of a PEFT model; any other model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_classifier(model: Any) -> bool:
    """Whether a model, with PEFT around it or not, gives each cell one label."""
    return type(inner_model(model)).__name__.endswith("ForSequenceClassification")


def foreign_family(what: str, model_type: Any) -> CheckpointError:
    """The error for a model of no family of ours."""
    return CheckpointError(
        f"{what} is a `{model_type}` model; expected one of the families {', '.join(sorted(FAMILIES))}, or a stock "
        "model beside the processor of one that builds on it."
    )
