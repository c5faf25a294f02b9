"""Readers of the files that original checkpoints come in. Nothing in such a file is ever executed."""

import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sclm_hf import files
from sclm_hf.errors import CheckpointError, MissingFileError
from sclm_hf.files import require_regular_file

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
    _refuse_compressed(path)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"`{path}` holds Python objects other than tensors and was refused; nothing of it was run. Expected a "
            "flat state dict written by `torch.save(model.state_dict(), …)`."
        ) from error
    # a damaged file raises almost anything
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"`{path}` cannot be read as a torch file ({reason}): download it again.") from error


def _refuse_compressed(path: Path) -> None:
    """torch stores its files as they are; a compressed one can be a thousand times what it seems."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"`{path}` cannot be read as a torch file ({error}): download it again.") from error
    if size > path.stat().st_size:
        raise CheckpointError(
            f"`{path}` claims {size:,} bytes and has {path.stat().st_size:,}: expected a file written by `torch.save`."
        )


def read_weights(folder: Path) -> tuple[str, dict[str, Tensor]]:
    """Name and tensors of the weights in a folder of transformers: `model.safetensors`, else `pytorch_model.bin`.

    Raises:
        CheckpointError: there are none, or they cannot be read.
    """
    name = next((name for name in WEIGHT_FILES if (folder / name).exists()), WEIGHT_FILES[0])
    require_file(folder / name)
    if name.endswith(".bin"):
        return name, read_state_dict(folder / name)
    try:
        tensors = load_file(folder / name)
    # also of dtypes that torch does not have
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"`{folder / name}` cannot be read as safetensors ({error}).") from error
    return name, tensors


def as_state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    """`loaded`, a part of the torch file `path`, if it is a flat state dict; without the prefix `module.`.

    Raises:
        CheckpointError: it is something else.
    """
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise CheckpointError(f"`{path}` is not a flat state dict: expected names that map to tensors.")
    for name, tensor in loaded.items():
        require_stored(tensor, name, path)
    size = sum(tensor.nbytes for tensor in loaded.values())
    if size > 4 * path.stat().st_size + 2**20:
        raise CheckpointError(
            f"`{path}` claims tensors of {size:,} bytes and has {path.stat().st_size:,}: expected a state dict "
            "written by `torch.save`."
        )
    if all(name.startswith("module.") for name in loaded):
        loaded = {name.removeprefix("module."): tensor for name, tensor in loaded.items()}
    return dict(loaded)


def require_stored(tensor: Tensor, name: str, path: Path) -> None:
    """Refuse a tensor that claims more numbers than its file holds, or is no plain tensor.

    Raises:
        CheckpointError: names it.
    """
    plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
    if not plain or tensor.nbytes > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"`{name}` in `{path}` claims the shape {tuple(tensor.shape)}, and the file does not hold as many "
            "numbers: it is damaged."
        )


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


def read_json_object(path: Path, *, once: bool = False) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        path: the file.
        once: refuse a name that is there twice, of which Python keeps the last.

    Raises:
        CheckpointError: the file is missing, too large or too deep, is no JSON or holds something else than an object.
    """
    require_file(path)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := [name for name, number in Counter(name for name, _ in pairs).items() if number > 1]:
            raise CheckpointError(f"`{path}` names {twice[0]!r} twice: expected each name once.")
        return dict(pairs)

    return files.read_json_object(path, object_pairs_hook=unique if once else None)


def require_file(path: Path) -> None:
    """Raise a `MissingFileError` that lists the folder's content when `path` is not there.

    Raises:
        CheckpointError: it is a folder, a pipe or a device.
    """
    require_regular_file(path)
    if path.is_file():
        return
    there = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    found = ", ".join(there) if there else "nothing, or the folder does not exist"
    raise MissingFileError(f"`{path.name}` is missing from `{path.parent}` (found there: {found}).")
