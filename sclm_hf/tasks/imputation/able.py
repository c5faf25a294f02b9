"""The family of a model, before its weights are read."""

from typing import Any

from ...opening.families import read_config
from ...opening.names import resolve_name


def family_of(model: Any, revision: str | None) -> str:
    """The `model_type` of a model, or of a folder or repository; of an adapter that of the adapted model.

    Raises:
        CheckpointError: there is no such folder or repository.
    """
    if not isinstance(model, str) and not hasattr(model, "__fspath__"):
        return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
    name = str(model)
    return str(read_config(name, resolve_name(name, revision)).get("model_type", "unknown"))
