"""The base that an adapter names: read from its folder, and renamed once the base has a repository."""

import json
from pathlib import Path

from ..errors import CheckpointError, ConfigurationError
from ..files import read_json_object, write_text
from ..opening.files import ADAPTER_CONFIG
from ..opening.names import is_repo_id


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
    settings = read_json_object(path)
    if settings.get("base_model_name_or_path") == repo_id:
        return
    # the revision was one of the place that the base was loaded from
    settings |= {"base_model_name_or_path": repo_id, "revision": None}
    write_text(path, json.dumps(settings, indent=2, sort_keys=True), CheckpointError)
