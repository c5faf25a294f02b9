"""Damage to checkpoints, adapters and releases."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from .damage import FILES, JSON, Damage, files_of, on_bytes, pick

TORCH = (".pt", ".pth", ".ckpt", ".bin", ".torch")


def _tensors_in(content) -> list[tuple[dict, str]]:
    """(dictionary, name) of every tensor in what a torch file holds."""
    if not isinstance(content, dict):
        return []
    found = [(content, name) for name, value in content.items() if isinstance(value, torch.Tensor)]
    for value in content.values():
        found += _tensors_in(value)
    return found


def _on_tensor(change: Callable[[dict, str, np.random.Generator], None]) -> Callable:
    def apply(path: Path, generator: np.random.Generator, victim: Path) -> str | None:
        files = files_of(path, ".safetensors", *TORCH)
        if not files:
            return None
        file = pick(generator, files)
        safe = file.suffix == ".safetensors"
        content = load_file(file) if safe else torch.load(file, weights_only=True)
        places = [(there, name) for there, name in _tensors_in(content) if there[name].is_floating_point()]
        there, name = pick(generator, places)
        change(there, name, generator)
        if safe:
            save_file({key: value.contiguous() for key, value in content.items()}, file, {"format": "pt"})
        else:
            torch.save(content, file)
        return f"{file.name}: {name}"

    return apply


def _set(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable:
    def apply(there: dict, name: str, generator: np.random.Generator) -> None:
        there[name] = change(there[name].clone())

    return apply


def _with_value(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[-1:] = value
        return tensor

    return change


def _lost(there: dict, name: str, generator: np.random.Generator) -> None:
    del there[name]


def _renamed(there: dict, name: str, generator: np.random.Generator) -> None:
    there[f"{name}_of_another"] = there.pop(name)


class _Runs:
    """A pickle that makes a file when it is loaded carelessly."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self):
        return (open, (self.canary, "w"))


def _pickle(path: Path, generator: np.random.Generator, victim: Path) -> str | None:
    files = files_of(path, ".pkl", *TORCH)
    harm = _Runs(str(victim / "canary"))
    if not files:
        file = next(iter(files_of(path, ".safetensors")), None)
        if file is None:
            return None
        file.unlink()
        file = file.with_name("adapter_model.bin" if "adapter" in file.name else "pytorch_model.bin")
    else:
        file = pick(generator, files)
    if file.suffix == ".pkl":
        file.write_bytes(pickle.dumps({"a": harm}))
    else:
        torch.save({"a": harm}, file)
    return file.name


def _code(path: Path, generator: np.random.Generator, victim: Path) -> str | None:
    """A class of the folder that transformers would run if anybody said yes."""
    files = [
        file for file in files_of(path, ".json") if "config" in file.name and file.name != "generation_config.json"
    ]
    if not files:
        return None
    file = pick(generator, files)
    content = json.loads(file.read_text())
    names = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoTokenizer", "AutoProcessor")
    content["auto_map"] = dict.fromkeys((*names, "AutoFeatureExtractor"), "evil.Evil")
    for key in ("model_type", "tokenizer_class", "processor_class", "feature_extractor_type"):
        if key in content:
            content[key] = "Evil"
    file.write_text(json.dumps(content))
    (file.parent / "evil.py").write_text(f"open({str(victim / 'canary')!r}, 'w').close()\nclass Evil: pass\n")
    return file.name


def _huge_header(content: bytes, generator: np.random.Generator) -> bytes:
    return struct.pack("<Q", pick(generator, [2**63 - 1, 2**40, len(content) * 2, 0])) + content[8:]


def _stretched(path: Path, generator: np.random.Generator, victim: Path) -> str | None:
    """A tensor of stride 0, which claims far more than its file holds."""
    files = files_of(path, *TORCH)
    if not files:
        return None
    file = pick(generator, files)
    content = torch.load(file, weights_only=True)
    there, name = pick(generator, _tensors_in(content))
    there[name] = torch.zeros(1).expand(2**20, 2**20)
    torch.save(content, file)
    return f"{file.name}: {name}"


def _sizes(path: Path, generator: np.random.Generator, victim: Path) -> str | None:
    """Sizes in the settings that the weights do not have."""
    places = []
    for file in files_of(path, ".json"):
        content = json.loads(file.read_text())
        if isinstance(content, dict):
            words = ("hidden", "layer", "vocab", "size", "embd", "n_", "dim", "positions", "nlayers", "r")
            numbers = [
                key for key, value in content.items() if (type(value) is int and key.startswith(words)) or key in words
            ]
            places += [(file, key) for key in numbers]
    if not places:
        return None
    file, key = pick(generator, places)
    content = json.loads(file.read_text())
    content[key] = pick(generator, [10**7, 10**10])
    file.write_text(json.dumps(content))
    return f"{file.name}: {key}"


def _text_lines(change: Callable[[list[str], np.random.Generator], list[str]]) -> Callable:
    def altered(content: bytes, generator: np.random.Generator) -> bytes:
        return "\n".join(change(content.decode().splitlines(), generator)).encode()

    return on_bytes(altered, ".txt", ".tsv", ".csv")


def _other_object(path: Path, generator: np.random.Generator, victim: Path) -> str | None:
    files = files_of(path, ".pkl", *TORCH)
    if not files:
        return None
    file = pick(generator, files)
    content = pick(generator, [[], {}, 5, {"a": [1, 2]}, {1: 2}, None, {"model_state_dict": 3}, {"a": {"b": "c"}}])
    if file.suffix == ".pkl":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file)
    return file.name


WEIGHTS = [
    *FILES,
    *JSON,
    Damage("weight lost", _on_tensor(_lost)),
    Damage("weight renamed", _on_tensor(_renamed)),
    Damage(
        "weight of another shape",
        _on_tensor(_set(lambda tensor: torch.cat([tensor, tensor]) if tensor.ndim else tensor[None])),
    ),
    Damage("weight NaN", _on_tensor(_set(_with_value(float("nan"))))),
    Damage("weight infinite", _on_tensor(_set(_with_value(float("inf"))))),
    Damage("weight of whole numbers", _on_tensor(_set(lambda tensor: tensor.to(torch.int64)))),
    Damage("weight of booleans", _on_tensor(_set(lambda tensor: tensor.to(torch.bool)))),
    Damage("weight of complex numbers", _on_tensor(_set(lambda tensor: tensor.to(torch.complex64)))),
    Damage("weight in 64 bits", _on_tensor(_set(lambda tensor: tensor.to(torch.float64)))),
    Damage("pickle that runs", _pickle),
    Damage("code of its own", _code),
    Damage("header that lies", on_bytes(_huge_header, ".safetensors")),
    Damage("tensor without storage", _stretched),
    Damage("sizes that lie", _sizes, alters=True),
    Damage("other object", _other_object),
    Damage("lines doubled", _text_lines(lambda lines, generator: lines + lines[1:3])),
    Damage("lines missing", _text_lines(lambda lines, generator: lines[:-3])),
    Damage("lines of commas", _text_lines(lambda lines, generator: [",,,\t\t"] * len(lines))),
]


def _adapter(**changes) -> Callable:
    def apply(path: Path, generator: np.random.Generator, victim: Path) -> str:
        file = path / "adapter_config.json"
        content = json.loads(file.read_text())
        key = pick(generator, sorted(changes))
        content[key] = pick(generator, changes[key])
        file.write_text(json.dumps(content))
        return f"{file.name}: {key}"

    return apply


_SLOW = r"(([a-z0-9_.])+)+X"

ADAPTERS = [
    *WEIGHTS,
    Damage("pattern that hangs", _adapter(target_modules=[_SLOW], exclude_modules=[_SLOW], layers_pattern=[_SLOW])),
    Damage("patterns by layer", _adapter(rank_pattern=[{_SLOW: 4}], alpha_pattern=[{_SLOW: 4}])),
    Damage("base elsewhere", _adapter(base_model_name_or_path=["../../nowhere", "/dev/zero", "no such/base", "", 5])),
    Damage("other method", _adapter(peft_type=["NONSENSE", "IA3", "PREFIX_TUNING", 3])),
    Damage(
        "class of another library", _adapter(auto_mapping=[{"base_model_class": "system", "parent_library": "os"}])
    ),
]
