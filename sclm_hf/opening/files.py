"""The files of a checkpoint that anybody may have written, looked at before anything opens them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, SclmError
from ..files import read_json_object, require_regular_file

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTED_CONFIG = "adapted_config.json"
"""The configuration of the adapted model: its class and its label names.

It is not called `config.json`, because transformers takes an adapter folder with one for a whole model.
"""

_INDEX, _WEIGHTS = "model.safetensors.index.json", "model.safetensors"
_SETTINGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


@dataclass(frozen=True)
class Stored:
    """What a file of safetensors says of a tensor before it is read.

    Attributes:
        shape: its shape.
        kind: `"float"`, `"integer"`, `"boolean"` or `"complex"`.
    """

    shape: tuple[int, ...]
    kind: str


@contextmanager
def damage_is_told(name: str, what: str = "is not a checkpoint folder or repository that can be read") -> Iterator:
    """Report any error raised while `name` is opened as one that names it.

    Raises:
        CheckpointError: something else than an error of ours was raised.
        SclmError: an error of ours, of its own class.
    """
    try:
        yield
    except SclmError as error:
        if name in str(error):
            raise
        raise type(error)(f"`{name}`: {error}") from error
    # the libraries that read a checkpoint raise almost anything where it is damaged
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"`{name}` {what}: {reason}") from error


def find_file(name: str, file: str, revision: Any = None) -> Path | None:
    """The path of `file` in a folder, or in the cache of the Hub; None where the checkpoint has none."""
    from transformers.utils.hub import cached_file

    if Path(name).is_dir():
        path = Path(name, file)
        return path if path.exists() else None
    found = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def require_readable(name: str, revision: Any = None) -> None:
    """Refuse a checkpoint whose files would hang or exhaust those who open them.

    Raises:
        CheckpointError: a file is a pipe or a device; settings are no JSON object, too large or nested too deeply.
    """
    if Path(name).is_dir():
        for path in sorted(Path(name).iterdir()):
            if not path.is_dir():
                require_regular_file(path)
    for file in _SETTINGS:
        read_settings(name, file, revision)


def read_settings(name: str, file: str, revision: Any = None) -> dict[str, Any] | None:
    """The JSON object in `file` of a checkpoint; None where it has none.

    Raises:
        CheckpointError: it cannot be read as one.
    """
    path = find_file(name, file, revision)
    return None if path is None else read_json_object(path)


def weight_files(name: str, revision: Any = None) -> list[Path]:
    """The files of safetensors that hold the weights of a checkpoint.

    Raises:
        CheckpointError: there are none, one is missing, or the index of shards leads out of the folder.
    """
    single = find_file(name, _WEIGHTS, revision)
    if single is not None:
        require_regular_file(single)
        return [single]
    index = read_settings(name, _INDEX, revision)
    if index is None:
        raise CheckpointError(
            f"`{name}` holds no weights as safetensors (`{_WEIGHTS}`): convert an original release with `sclm-hf "
            "convert`, or save the model again with `save_pretrained`."
        )
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
        raise CheckpointError(f"`{_INDEX}` of `{name}` does not say which weights are in which file.")
    found = []
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard:
            raise CheckpointError(
                f"`{_INDEX}` of `{name}` names the shard `{shard}`; expected names without a folder."
            )
        path = find_file(name, shard, revision)
        if path is None:
            raise CheckpointError(f"`{name}` lacks `{shard}`, which its `{_INDEX}` names.")
        require_regular_file(path)
        found.append(path)
    return found


def read_headers(files: list[Path]) -> dict[str, Stored]:
    """Name -> what the files of safetensors say of each of their tensors; nothing of them is loaded.

    Raises:
        CheckpointError: a file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    found = {}
    for file in files:
        require_regular_file(file)
        try:
            with safe_open(file, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (no mapping)
                    part = tensors.get_slice(name)
                    found[name] = Stored(tuple(part.get_shape()), _kind(part.get_dtype()))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"`{file}` cannot be read as safetensors ({error}).") from error
    return found


def _kind(dtype: str) -> str:
    kinds = {"F": "float", "B": "float" if dtype.startswith("BF") else "boolean", "C": "complex"}
    return kinds.get(dtype[:1], "integer")
