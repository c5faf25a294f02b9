"""What a user may call a model: a folder, or a repository on the Hub."""

import os
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, HubError
from ..registry import FAMILIES


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


def resolve_name(name: str, revision: str | None = None) -> Any:
    """The one commit that all files of a repository are taken from; `revision` as it is for a folder.

    What cannot be a repository is never asked of the Hub, and the Hub is asked once, not again and again.

    Args:
        name: folder or repository.
        revision: branch, tag or commit on the Hub.

    Raises:
        CheckpointError: there is no such folder or repository; or `name` is that of a family.
        HubError: the Hub cannot be reached, and the cache does not hold the repository.
    """
    if name and Path(name).is_dir():
        return revision
    if name in FAMILIES:
        raise CheckpointError(
            f"`{name}` is a family, not a checkpoint: give a folder or a repository with weights of {name}. "
            f"`sclm-hf models {name}` lists the released ones, and `sclm-hf convert {name} SOURCE OUTPUT` makes a "
            "folder of one."
        )
    if os.path.lexists(name) or not is_repo_id(name):
        what = "is no folder" if os.path.lexists(name) else "does not exist"
        raise CheckpointError(f"`{name}` is not a checkpoint folder or repository that can be read: it {what}.")
    from transformers.utils.hub import resolve_revision

    resolved = resolve_revision(name, revision)
    if getattr(resolved, "resolved", None) is None:
        _ask_why(name, revision)
    return resolved


def _ask_why(name: str, revision: str | None) -> None:
    """Raise what keeps a repository from being read, if anything does."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        HfApi().model_info(name, revision=revision, timeout=10)
    except GatedRepoError as error:
        raise HubError(
            f"`{name}` is gated: accept its conditions on the Hub, and log in with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"`{name}` is not a checkpoint folder or repository that can be read: there is no such folder here, and "
            "no such repository on the Hub, or it is private (log in with `hf auth login`)."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"`{name}` has no revision `{revision}` on the Hub.") from error
    # the errors of the connection have no base of their own
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise HubError(
            f"`{name}` is no folder here, and the Hub, where it may be a repository, could not be asked ({reason}): "
            "check the name and the connection, or give the path of a folder."
        ) from error
