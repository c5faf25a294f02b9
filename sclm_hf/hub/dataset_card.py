"""The card of a data set, once it is known what its repository is called."""

from pathlib import Path

from ..errors import ConfigurationError
from ..files import read_text_file, write_text
from ..opening.files import ADAPTER_CONFIG
from ..opening.names import is_repo_id
from .card import PLACEHOLDER


def holds_dataset(folder: str | Path) -> bool:
    """Whether a folder holds Parquet shards, and neither a model nor an adapter, whose manifest is Parquet too."""
    folder = Path(folder)
    models = ("config.json", ADAPTER_CONFIG)
    return not any((folder / name).exists() for name in models) and any(folder.rglob("*.parquet"))


def name_dataset(folder: str | Path, repo_id: str) -> Path:
    """Let the examples of the card in `folder` load `repo_id`; what else was written into the card stays.

    Returns:
        The card.

    Raises:
        ConfigurationError: `repo_id` is a path and no repository, or there is no card.
    """
    if not is_repo_id(repo_id):
        raise ConfigurationError(f"The data set must be a repository on the Hub such as `me/cells`, got `{repo_id}`.")
    card = Path(folder) / "README.md"
    if not card.exists():
        raise ConfigurationError(f"`{folder}` has no card (README.md): write one with `license:` in its metadata.")
    text = read_text_file(card)
    text = text.replace(f'load_dataset("{PLACEHOLDER}"', f'load_dataset("{repo_id}"')
    text = text.replace(
        f'from sclm_hf import CellCorpus\n\ncorpus = CellCorpus("{PLACEHOLDER}"',
        "from huggingface_hub import snapshot_download\nfrom sclm_hf import CellCorpus\n\n"
        f'folder = snapshot_download("{repo_id}", repo_type="dataset")\ncorpus = CellCorpus(folder',
    )
    write_text(card, text.replace(PLACEHOLDER, "FOLDER"))
    return card
