"""The family of a model, before its weights are read."""

from typing import Any

from ...opening.files import read_settings
from ...opening.names import resolve_name


def family_of(model: Any, revision: str | None) -> str:
    """The `model_type` of a model, or of a folder or repository.

    Raises:
        CheckpointError: there is no such folder or repository.
    """
    if not isinstance(model, str) and not hasattr(model, "__fspath__"):
        return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
    name = str(model)
    settings = read_settings(name, "config.json", resolve_name(name, revision)) or {}
    return str(settings.get("model_type", "unknown"))
