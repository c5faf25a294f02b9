"""Readers of the files that original checkpoints come in. Nothing in such a file is ever executed."""

import json
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sclm_hf.errors import CheckpointError, MissingFileError

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Weights in a folder of transformers; the first that is there is read."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `torch.save` file with `weights_only=True`.

    The prefix `module.` that distributed training leaves on every name is taken off.

    Raises:
        CheckpointError: the file is missing, damaged, holds other things than tensors, or would run code.
    """
    return as_state_dict(read_torch_file(path), path)


def read_torch_file(path: Path, allowed: Sequence[type] = ()) -> Any:
    """Read a `torch.save` file of tensors, numbers, strings and containers of them, with `weights_only=True`.

    Args:
        path: the file.
        allowed: further types that it may hold; such that only keep what they are given.

    Raises:
        CheckpointError: the file is missing, damaged, or would run code.
    """
    require_file(path)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"`{path}` holds Python objects other than tensors and was refused; nothing of it was run. Expected a "
            "flat state dict written by `torch.save(model.state_dict(), …)`."
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(f"`{path}` cannot be read as a torch file ({error}): download it again.") from error


def read_weights(folder: Path) -> tuple[str, dict[str, Tensor]]:
    """Name and tensors of the weights in a folder of transformers: `model.safetensors`, else `pytorch_model.bin`.

    Raises:
        CheckpointError: there are none, or they cannot be read.
    """
    name = next((name for name in WEIGHT_FILES if (folder / name).is_file()), WEIGHT_FILES[0])
    require_file(folder / name)
    if name.endswith(".bin"):
        return name, read_state_dict(folder / name)
    try:
        return name, load_file(folder / name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"`{folder / name}` cannot be read as safetensors ({error}).") from error


def as_state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    """`loaded`, a part of the torch file `path`, if it is a flat state dict; without the prefix `module.`.

    Raises:
        CheckpointError: it is something else.
    """
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"`{path}` is not a flat state dict: expected names that map to tensors.")
    if all(name.startswith("module.") for name in loaded):
        loaded = {name.removeprefix("module."): tensor for name, tensor in loaded.items()}
    return dict(loaded)


def read_pickle(path: Path) -> Any:
    """Read a pickle of plain data: dictionaries, lists, tuples, sets, strings, numbers and numpy's numbers.

    Of the names that a pickle may ask Python for only numpy's two for a number are known, and even these are replaced
    by readers of our own: nothing that the file names is ever imported or called. Numpy's numbers come back as
    Python's.

    Raises:
        CheckpointError: the file is missing, damaged, or holds anything else.
    """
    require_file(path)
    try:
        with path.open("rb") as file:
            loaded = _PlainUnpickler(file).load()
        _check_plain(loaded)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"`{path}` was refused, and nothing of it was run: {error}. Expected a pickle of dictionaries, lists, "
            "strings and numbers."
        ) from error
    # a damaged pickle raises almost anything
    except Exception as error:
        raise CheckpointError(f"`{path}` cannot be read as a pickle ({error}): download it again.") from error
    return loaded


class _PlainUnpickler(pickle.Unpickler):
    """Knows numpy's numbers and no other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        # new functions every time: a pickle may set attributes of what it gets
        if (module, name) == ("numpy", "dtype"):
            return lambda code, *flags: _NumberType(code)
        if (module, name) in (("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar")):
            return lambda kind, data: kind.read(data)
        raise pickle.UnpicklingError(f"it asks for `{module}.{name}`")


class _NumberType:
    """What a pickle says of a numpy number: its kind and size, then the order of its bytes."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        if re.fullmatch("[iuf][1248]|b1", code) is None:
            raise pickle.UnpicklingError(f"it holds numpy data of the type {code!r}")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.code = state[1] + self.code

    def read(self, data: bytes) -> int | float | bool:
        return np.frombuffer(data, self.code).item()


def _check_plain(loaded: Any) -> None:
    """Refuse anything but plain data; a container that holds itself is looked at once."""
    waiting, seen = [loaded], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, (dict, list, tuple, set, frozenset)):
            if id(value) not in seen:
                seen.add(id(value))
                waiting += [*value.keys(), *value.values()] if isinstance(value, dict) else value
        elif not isinstance(value, (str, int, float, bool, type(None))):
            raise pickle.UnpicklingError(f"it holds a {type(value).__name__}")


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        CheckpointError: the file is missing, is no JSON or holds something else than an object.
    """
    require_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"`{path}` is not valid JSON ({error}).") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"`{path}` must hold a JSON object, got {type(content).__name__}.")
    return content


def require_file(path: Path) -> None:
    """Raise a `MissingFileError` that lists the folder's content when `path` is not there."""
    if path.is_file():
        return
    there = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    found = ", ".join(there) if there else "nothing, or the folder does not exist"
    raise MissingFileError(f"`{path.name}` is missing from `{path.parent}` (found there: {found}).")
