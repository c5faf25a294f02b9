"""Pushing a folder to the Hub in one commit, so that the repository is never anything between the old and the new."""

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from .._version import __version__
from ..errors import ConfigurationError, HubError, SclmError
from ..logging import get_logger
from ..opening.files import ADAPTED_CONFIG, ADAPTER_CONFIG
from ..opening.partners import PARTNERS_FILE
from .folder import PushFolder, read_folder, unusable_base
from .remote_code import CODE_FILES, files_with_code

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi
    from huggingface_hub.hf_api import DatasetInfo, ModelInfo

logger = get_logger(__name__)

# left behind by an earlier push, these would be read together with the new ones
_REPLACED = (
    "*.parquet",
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    ADAPTER_CONFIG,
    ADAPTED_CONFIG,
    PARTNERS_FILE,
    CODE_FILES,
)


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    with_code: bool = False,
    force: bool = False,
) -> "CommitInfo":
    """Push a folder with a model, an adapter or dataset shards, and its card, in one commit.

    The folder is checked before anything is sent. Weights, shards and configurations that an earlier push put beside
    the new ones, and that the folder has no longer, are deleted in the same commit; other files of the repository
    stay. Cut off at any point, the push can be repeated: what has arrived is not sent again, and a folder that has
    arrived makes no new commit.

    Of a training run's folder, `checkpoints/`, `adapter/` (push it on its own), TensorBoard's logs and hidden files
    stay here.

    Args:
        folder: what training, converting or `save_pretrained` wrote, with a `README.md`.
        repo_id: the repository, created if there is none.
        repo_type: `"model"` (adapters too) or `"dataset"`.
        private: whether a new repository is private; otherwise what the account's settings say.
        revision: branch to push to, created if there is none; `main` unless given.
        token: access token; otherwise the one that `hf auth login` keeps.
        commit_message: title of the commit.
        create_pr: open a pull request instead of changing the branch. Repeated, it opens another one.
        with_code: add the code that opens the model where this package is not installed, as
            `remote_code.export_with_code` does; the folder here stays as it is.
        force: push a family whose weights may not be hosted again.

    Returns:
        What huggingface_hub says about the commit: `commit_url`, `oid`, `pr_url`, …

    Raises:
        CheckpointError: the folder holds no model or adapter, or its weights are missing, damaged or pickles.
        CorpusError: the folder holds no dataset, or its shards are damaged.
        ConfigurationError: the card or the base is not fit for the Hub; or `private` was asked for and the repository
            is public.
        HubError: the Hub could not be reached, refused, or changed while pushing. The repository is at the old or at
            the new state.
    """
    content = read_folder(folder, repo_id, repo_type=repo_type, force=force)
    if with_code:
        content = _with_code(folder, content, repo_type)
    if content.left_out:
        logger.warning("%d files stay here, for example %s.", len(content.left_out), content.left_out[0])
    message = commit_message or f"Upload with sclm_hf {__version__}"
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="sclm_hf", library_version=__version__)
    try:
        _check_bases_exist(api, folder, content)
        head = _prepare_repository(api, repo_id, repo_type, private=private, revision=revision, create_pr=create_pr)
        # `upload_folder` would do for small folders only: it cuts large ones into several commits
        return api.create_commit(
            repo_id,
            _operations(api, content, repo_id, repo_type, head),
            commit_message=message,
            repo_type=repo_type,
            revision=revision,
            create_pr=create_pr,
            parent_commit=head,
        )
    except SclmError:
        raise
    # huggingface_hub passes on the errors of its HTTP library, which differ from one to the next, and bare ones
    except Exception as error:
        raise HubError(
            f"Pushing to `{repo_id}` failed: {error}\nThe repository holds either what it held before or all of the "
            "folder; log in if need be (`hf auth login`, or HF_TOKEN), and push again."
        ) from error


def _with_code(folder: str | Path, content: PushFolder, repo_type: str) -> PushFolder:
    if repo_type != "model":
        raise ConfigurationError("`with_code` (`--with-code`) is for models: leave it out.")
    added = {path: text.encode() for path, text in files_with_code(folder).items()}
    return replace(content, files=content.files | added)


def _check_bases_exist(api: "HfApi", folder: str | Path, content: PushFolder) -> None:
    for base in content.base_models:
        if not api.repo_exists(base):
            raise unusable_base(folder, base, "which is no repository that your account can see")


def _prepare_repository(
    api: "HfApi", repo_id: str, repo_type: str, *, private: bool | None, revision: str | None, create_pr: bool
) -> str:
    """Create repository and branch where they are missing; returns the commit that the push builds on."""
    info = _find_repository(api, repo_id, repo_type)
    if info is None:
        api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
    elif private and not info.private:
        raise ConfigurationError(
            f"`{repo_id}` exists and is public: make it private in its settings, or leave `private` out."
        )
    if revision is not None and not revision.startswith("refs/") and not create_pr:
        api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
    return api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha


def _find_repository(api: "HfApi", repo_id: str, repo_type: str) -> "ModelInfo | DatasetInfo | None":
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.repo_info(repo_id, repo_type=repo_type)
    except RepositoryNotFoundError:
        return None


def _operations(api: "HfApi", content: PushFolder, repo_id: str, repo_type: str, head: str) -> list:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    there = api.list_repo_files(repo_id, repo_type=repo_type, revision=head)
    return [
        *(CommitOperationDelete(path) for path in there if _is_outdated(PurePosixPath(path), content)),
        *(CommitOperationAdd(path, file) for path, file in content.files.items()),
    ]


def _is_outdated(path: PurePosixPath, content: PushFolder) -> bool:
    lies_beside = any(PurePosixPath(sent).parent == path.parent for sent in content.files)
    return lies_beside and path.as_posix() not in content.files and any(path.match(name) for name in _REPLACED)
