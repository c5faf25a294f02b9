"""The base that an adapter names: read from its folder, and renamed once the base has a repository."""

import json
import os
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigurationError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTED_CONFIG = "adapted_config.json"
"""Configuration of the adapted model; a literal, because `adapters.lora`, which writes it, imports torch."""


def is_repo_id(name: str) -> bool:
    """Whether `name` could be a repository on the Hub, and is not visibly a path of this machine."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if name.startswith((".", "~")) or os.path.isabs(name):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint folder.

    Raises:
        CheckpointError: it is missing, or holds something else.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"`{path}` cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"`{path}` must hold a JSON object, not a {type(settings).__name__}.")
    return settings


def name_base(folder: str | Path, repo_id: str) -> None:
    """Make the adapter in `folder` name `repo_id` as its base; a folder without an adapter stays as it is.

    Raises:
        ConfigurationError: `repo_id` is a path and no repository.
        CheckpointError: the adapter's configuration cannot be read.
    """
    if not is_repo_id(repo_id):
        raise ConfigurationError(f"The base must be a repository on the Hub such as `me/base`, got `{repo_id}`.")
    path = Path(folder) / ADAPTER_CONFIG
    if not path.exists():
        return
    settings = read_settings(path)
    if settings.get("base_model_name_or_path") == repo_id:
        return
    # the revision was one of the place that the base was loaded from
    settings |= {"base_model_name_or_path": repo_id, "revision": None}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
