"""Original releases: a folder or file of this machine, or a repository on the Hub that is laid out like one."""

from pathlib import Path

from ..errors import CheckpointError, HubError, MissingFileError
from ..opening.names import is_repo_id

_READ = ("json", "safetensors", "bin", "pt", "pth", "ckpt", "torch", "pkl", "csv", "tsv", "txt")


def find_release(source: str | Path, revision: str | None = None) -> Path:
    """The folder or file of a release; what is on the Hub is brought into its cache first.

    Args:
        source: a path; or a repository id, such as `tdc/scGPT`, or a folder of one, such as
            `ctheodoris/Geneformer/Geneformer-V2-104M`, with which all dictionaries (`*.pkl`) of the repository come.
        revision: branch, tag or commit on the Hub.

    Raises:
        MissingFileError: there is no such path, and it can be no repository.
        CheckpointError: the repository has no such folder.
        HubError: the Hub cannot be reached, or has no such repository.
    """
    path, name = Path(source), str(source)
    if path.exists():
        return path
    parts = name.strip("/").split("/")
    repository, inner = "/".join(parts[:2]), "/".join(parts[2:])
    if len(parts) < 2 or not is_repo_id(repository) or ".." in parts:
        raise MissingFileError(
            f"`{source}` does not exist: name the folder of the release, or a repository on the Hub (`owner/name`, or "
            "`owner/name/folder`)."
        )
    folder = _download(repository, inner, revision) / inner
    if not folder.is_dir():
        raise CheckpointError(f"The repository `{repository}` has no folder `{inner}` with weights.")
    return folder


def _download(repository: str, inner: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = [f"{inner}/*.{kind}" if inner else f"*.{kind}" for kind in _READ]
    # dictionaries lie beside the folders of the models that share them
    wanted += ["*.pkl"] if inner else []
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise HubError(
            f"`{repository}` could not be fetched from the Hub ({reason}). Check the name and the connection, log in "
            "with `hf auth login` where it is private, or download its files and name their folder."
        ) from error
