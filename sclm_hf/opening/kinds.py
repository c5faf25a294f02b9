"""What kind of model a model is."""

from typing import Any

from ..errors import CheckpointError
from ..registry import FAMILIES

AUTO_CLASSES = {
    "embed": "AutoModel",
    "annotate": "AutoModelForSequenceClassification",
    "pretrain": "AutoModelForPreTraining",
}
"""What a new model is made for -> the Auto class whose head that needs; verbs name theirs in their records."""


def is_adapted(model: Any) -> bool:
    """Whether `model` is a PEFT model around another one."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def inner_model(model: Any) -> Any:
    """The model inside a PEFT model; any other model as it is."""
    return model.get_base_model() if is_adapted(model) else model


def labels_cells(architecture: str) -> bool:
    """Whether models of a class, given by name, predict one label per cell."""
    return architecture.endswith("ForSequenceClassification")


def labels_tasks(architecture: str) -> bool:
    """Whether models of a class, given by name, predict one label per cell for each of several tasks."""
    return architecture.endswith("ForMultiTaskClassification")


def is_classifier(model: Any) -> bool:
    """Whether a model, with PEFT around it or not, predicts one label per cell."""
    return labels_cells(type(inner_model(model)).__name__)


def foreign_family(what: str, model_type: Any) -> CheckpointError:
    """The error for a model of no family of ours."""
    return CheckpointError(
        f"{what} is a `{model_type}` model; expected one of the families {', '.join(sorted(FAMILIES))}, or a stock "
        "model beside the processor of one that builds on it."
    )
