"""What a folder sends to the Hub, checked before anything is sent."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, ConfigurationError, CorpusError, require
from ..files import read_json_object
from ..opening.families import encoder_family
from ..opening.files import ADAPTED_CONFIG, ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_headers, weight_files
from ..opening.names import is_repo_id
from ..opening.specialists import is_specialist
from ..registry import Family
from ..text.closed_set import is_language_model, text_encoder_family
from .card import PLACEHOLDER

# what a training run keeps beside the model; its adapter is pushed on its own, to a repository of its own
_BESIDE_THE_MODEL = ("checkpoints", "adapter", "base", "projector")
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}


@dataclass(frozen=True)
class PushFolder:
    """The files of a folder that a push sends.

    Attributes:
        files: path in the repository -> file here, or its content.
        left_out: paths of the folder that stay here.
        base_models: repositories that the adapter and the card name as base.
    """

    files: dict[str, Path | bytes]
    left_out: tuple[str, ...]
    base_models: tuple[str, ...]


def read_folder(folder: str | Path, repo_id: str, *, repo_type: str = "model", force: bool = False) -> PushFolder:
    """Check that what is in `folder` can be used by others, and list it.

    Args:
        folder: folder of a model, of an adapter, or of dataset shards.
        repo_id: where it will go; only for the remedies in the messages.
        repo_type: `"model"` or `"dataset"`.
        force: accept a family, or a cell encoder of one, whose weights may not be hosted again.

    Raises:
        CheckpointError: no model and no adapter is there; weights are missing, damaged, or pickles.
        CorpusError: shards are missing or damaged.
        ConfigurationError: the card is missing, or has no licence; it or the adapter names a base on this machine; the
            family's weights may not be hosted again.
    """
    folder = Path(folder)
    if repo_type not in ("model", "dataset"):
        raise ConfigurationError(f"`repo_type` must be 'model' or 'dataset', got {repo_type!r}.")
    if not folder.is_dir():
        raise ConfigurationError(f"`{folder}` is not a folder: give the one that training or converting wrote.")
    files, left_out = list_files(folder)
    error_class = CheckpointError if repo_type == "model" else CorpusError
    if pickles := [path for path, file in files.items() if file.suffix in _PICKLES]:
        raise error_class(
            f"`{folder}` holds pickles, which can run code where they are loaded, for example `{pickles[0]}`: save "
            "the weights as safetensors (`save_pretrained` does), or take the files out."
        )
    base_models = _check_model(folder, files, force=force) if repo_type == "model" else _check_shards(folder, files)
    base_models += _check_card(folder, repo_id, repo_type)
    for base in base_models:
        if not is_repo_id(base):
            raise unusable_base(folder, base, "which is a path of this machine")
    return PushFolder(files, left_out, tuple(dict.fromkeys(base_models)))


def list_files(folder: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Path in the repository -> file, of all that goes to others; and the paths of what stays here."""
    files, left_out = {}, []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        path = file.relative_to(folder)
        if _stays_here(path):
            left_out.append(path.as_posix())
        else:
            files[path.as_posix()] = file
    return files, tuple(left_out)


def _stays_here(path: Path) -> bool:
    is_hidden = any(part.startswith(".") and part != ".eval_results" for part in path.parts)
    # logs of TensorBoard carry the name of the machine
    return is_hidden or path.parts[0] in _BESIDE_THE_MODEL or path.name.startswith("events.out.tfevents")


def _check_model(folder: Path, files: dict[str, Path], *, force: bool) -> list[str]:
    """Check configuration and weights of a model or an adapter; returns the base that an adapter names."""
    is_adapter = ADAPTER_CONFIG in files
    config = ADAPTED_CONFIG if is_adapter else "config.json"
    if config not in files:
        raise CheckpointError(
            f"`{folder}` holds neither a model nor an adapter: there is no `{config}`.{_hint(folder, files)}"
        )
    family = None if is_specialist(folder) else _family(folder)
    if family is not None and not (family.redistributable or force):
        raise ConfigurationError(
            f"Weights of {family.title} may not be hosted again: {family.weights_license}, "
            f"{family.weights_license_note} With the owner's permission say `force=True` (`--force`)."
        )
    if not is_adapter:
        weight_files(str(folder))
    elif ADAPTER_WEIGHTS not in files:
        raise CheckpointError(
            f"`{folder}` lacks weights: there is no `{ADAPTER_WEIGHTS}`. Save the adapter there again."
        )
    read_headers([file for file in files.values() if file.suffix == ".safetensors"])
    return [str(read_json_object(files[ADAPTER_CONFIG]).get("base_model_name_or_path"))] if is_adapter else []


def _family(folder: Path) -> Family | None:
    return text_encoder_family(folder) if is_language_model(folder) else encoder_family(str(folder))


def _hint(folder: Path, files: dict[str, Path]) -> str:
    if (folder / "adapter" / ADAPTER_CONFIG).exists():
        return f" The adapter is in `{folder / 'adapter'}`."
    if any(file.suffix == ".parquet" for file in files.values()):
        return " For dataset shards say `repo_type='dataset'` (`--repo-type dataset`)."
    return ""


def _check_shards(folder: Path, files: dict[str, Path]) -> list[str]:
    shards = [file for file in files.values() if file.suffix == ".parquet"]
    if not shards:
        raise CorpusError(f"`{folder}` holds no dataset: there are no Parquet shards (`*.parquet`).")
    for file in shards:
        with file.open("rb") as content:
            start = content.read(4)
            content.seek(max(4, file.stat().st_size - 4))
            if (start, content.read(4)) != (b"PAR1", b"PAR1"):
                raise CorpusError(f"`{file}` is not a whole Parquet file: write the shards again.")
    return []


def _check_card(folder: Path, repo_id: str, repo_type: str) -> list[str]:
    """Check that README.md says what others need; returns the bases that it names."""
    from huggingface_hub.repocard import metadata_load

    yaml = require("yaml", extra="hub")
    card = folder / "README.md"
    command = f"sclm-hf card {folder}"
    remedy = f"say `{command} --license …`." if repo_type == "model" else "write one with `license:` in its metadata."
    if not card.exists():
        raise ConfigurationError(f"`{folder}` has no card (README.md): {remedy}")
    try:
        metadata = metadata_load(card) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(f"The metadata of `{card}` cannot be read: {error}") from error
    if not metadata.get("license"):
        raise ConfigurationError(f"The card `{card}` names no licence: {remedy}")
    if PLACEHOLDER in card.read_text(encoding="utf-8"):
        raise ConfigurationError(f"The card's example loads `{PLACEHOLDER}`: say `{command} --model {repo_id}`.")
    bases = metadata.get("base_model") or []
    return [str(base) for base in (bases if isinstance(bases, list) else [bases])]


def unusable_base(folder: str | Path, base: str, reason: str) -> ConfigurationError:
    """The error for a base that others could not load."""
    return ConfigurationError(
        f"`{folder}` names `{base}` as its base, {reason}. Push the base first, then name its repository with "
        f"`sclm-hf card {folder} --base-model REPO_ID`."
    )
