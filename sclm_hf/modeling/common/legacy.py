"""Readers of the files that original checkpoints come in. Nothing in such a file is ever executed."""

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sclm_hf.errors import CheckpointError


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `torch.save` file with `weights_only=True`.

    The prefix `module.` that distributed training leaves on every name is taken off.

    Raises:
        CheckpointError: the file is missing, damaged, holds other things than tensors, or would run code.
    """
    require_file(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"`{path}` holds Python objects other than tensors and was refused; nothing of it was run. Expected a "
            "flat state dict written by `torch.save(model.state_dict(), …)`."
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(f"`{path}` cannot be read as a torch file ({error}): download it again.") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"`{path}` is not a flat state dict: expected names that map to tensors.")
    if all(name.startswith("module.") for name in loaded):
        loaded = {name.removeprefix("module."): tensor for name, tensor in loaded.items()}
    return dict(loaded)


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
    """Raise a `CheckpointError` that lists the folder's content when `path` is not there."""
    if path.is_file():
        return
    there = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    found = ", ".join(there) if there else "nothing, or the folder does not exist"
    raise CheckpointError(f"`{path.name}` is missing from `{path.parent}` (found there: {found}).")
