"""`adapter_config.json` as somebody else wrote it: plain names only, and nothing that would be imported."""

import re
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..opening.files import ADAPTER_CONFIG, find_file, read_settings
from ..opening.names import resolve_name

_PLAIN = re.compile(r"[A-Za-z0-9_.-]*")
_LIBRARIES = ("sclm_hf.", "transformers.")
_FREE = ("base_model_name_or_path", "revision", "auto_mapping")
_REFUSED = {
    "megatron_config": "peft would import the library that `megatron_core` names",
    "tokenizer_kwargs": "peft would load a tokenizer with them",
    "tokenizer_name_or_path": "peft would load that tokenizer",
    "adapters": "it would load further adapters",
}


def read_adapter_settings(path: str, revision: Any = None) -> dict[str, Any]:
    """The content of `adapter_config.json`.

    peft takes the names of layers for regular expressions in several places (`modules_to_save`, `rank_pattern`, a
    string in `target_modules`, …), and a regular expression of a stranger can run for years. So all words must be
    plain names, as those are that peft itself writes.

    Args:
        path: folder or repository of the adapter.
        revision: branch, tag or commit on the Hub.

    Raises:
        CheckpointError: there is none; a word is no plain name; or it asks for something to be imported.
    """
    settings = read_settings(path, ADAPTER_CONFIG, revision)
    if settings is None:
        raise CheckpointError(f"`{path}` is not an adapter that can be read: it holds no `{ADAPTER_CONFIG}`.")
    for key, why in _REFUSED.items():
        if settings.get(key):
            raise CheckpointError(f"`{key}` in `{ADAPTER_CONFIG}` of `{path}` was refused: {why}.")
    mapping = settings.get("auto_mapping") or {}
    library = mapping.get("parent_library", "transformers.") if isinstance(mapping, dict) else mapping
    if not str(library).startswith(_LIBRARIES):
        raise CheckpointError(
            f"`auto_mapping` in `{ADAPTER_CONFIG}` of `{path}` names the library {library!r}: expected one of "
            "sclm_hf or transformers."
        )
    for key, value in settings.items():
        if key not in _FREE:
            _require_plain(path, key, value)
    return settings


def _require_plain(path: str, key: str, value: Any) -> None:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and _PLAIN.fullmatch(value) is None:
            raise CheckpointError(
                f"`{key}` in `{ADAPTER_CONFIG}` of `{path}` holds {value[:80]!r}, a pattern and no plain name: it was "
                "not tried. Name the layers one by one (`save_adapter` does)."
            )


def base_of(path: str, settings: dict[str, Any]) -> str:
    """Folder or repository of the base that an adapter names.

    A name that begins with a dot is a path seen from the adapter's folder, wherever one stands.

    Raises:
        CheckpointError: it names none, or an adapter of the Hub names a folder.
    """
    base = settings.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"`{ADAPTER_CONFIG}` of `{path}` names no base (`base_model_name_or_path`).")
    if not base.startswith("."):
        return base
    if not Path(path).is_dir():
        raise CheckpointError(
            f"`{path}` names `{base}` as its base, a folder of the machine that it was trained on. {REMEDY}"
        )
    return str(Path(path, base).resolve())


REMEDY = (
    f"Name the place of the base as `base_model_name_or_path` in its `{ADAPTER_CONFIG}`, or in Python as "
    "`load_adapter(…, base=…)`."
)


def find_base(path: str, revision: Any = None) -> tuple[str, Any] | None:
    """The base that an adapter names, and its revision; None for what is no adapter.

    Raises:
        CheckpointError: the adapter cannot be read, names no base, or one that is an adapter too.
    """
    if find_file(path, ADAPTER_CONFIG, revision) is None:
        return None
    settings = read_adapter_settings(path, revision)
    base = base_of(path, settings)
    revision = resolve_name(base, settings.get("revision"))
    if find_file(base, ADAPTER_CONFIG, revision) is not None:
        raise CheckpointError(f"`{ADAPTER_CONFIG}` of `{path}` names the base `{base}`, which is an adapter too.")
    return base, revision
