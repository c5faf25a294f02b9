"""What damage is, and damage to files of any kind and to JSON."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ZARR_METADATA = (".zarray", ".zgroup", ".zattrs", "zarr.json")


@dataclass(frozen=True)
class Damage:
    """A way to spoil an input.

    Attributes:
        name: its name in the table.
        apply: (file or folder, generator, folder of the victim) -> what was done, or None where it does not apply.
        alters: whether the spoiled input may rightly be accepted with another result, as a valid input of other
            content; else it must be refused or give the result of the sound one.
        refused: whether it must be refused whatever the result.
    """

    name: str
    apply: Callable[[Path, np.random.Generator, Path], str | None]
    alters: bool = False
    refused: bool = False


def files_of(path: Path, *suffixes: str) -> list[Path]:
    """The files of a folder (or the file itself) with one of the suffixes, in order."""
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [file for file in found if not suffixes or file.suffix in suffixes]


def pick(generator: np.random.Generator, items: list) -> Any:
    """One of the items; where there are none the damage does not apply."""
    if not items:
        raise LookupError("nothing to damage")
    return items[int(generator.integers(len(items)))]


def on_bytes(change: Callable[[bytes, np.random.Generator], bytes], *suffixes: str) -> Callable:
    """Damage that changes the bytes of one of the files."""

    def apply(path: Path, generator: np.random.Generator, victim: Path) -> str | None:
        files = files_of(path, *suffixes)
        if not files:
            return None
        file = pick(generator, files)
        file.write_bytes(change(file.read_bytes(), generator))
        return file.name

    return apply


def _cut(content: bytes, generator: np.random.Generator) -> bytes:
    return content[: int(generator.integers(len(content) + 1))]


def _flipped(content: bytes, generator: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for place in generator.integers(len(content), size=8) if content else ():
        changed[place] ^= int(generator.integers(1, 256))
    return bytes(changed)


def _zeroed(content: bytes, generator: np.random.Generator) -> bytes:
    start = int(generator.integers(len(content) + 1))
    length = min(512, len(content) - start)
    return content[:start] + bytes(length) + content[start + length :]


def _pipe(path: Path, generator: np.random.Generator, victim: Path) -> str:
    file = pick(generator, files_of(path))
    file.unlink()
    os.mkfifo(file)
    return file.name


def _folder(path: Path, generator: np.random.Generator, victim: Path) -> str:
    file = pick(generator, files_of(path))
    file.unlink()
    file.mkdir()
    return file.name


def _missing(path: Path, generator: np.random.Generator, victim: Path) -> str:
    file = pick(generator, files_of(path))
    file.unlink()
    return file.name


def _link_to_itself(path: Path, generator: np.random.Generator, victim: Path) -> str:
    file = pick(generator, files_of(path))
    file.unlink()
    file.symlink_to(file)
    return file.name


FILES = [
    Damage("cut off", on_bytes(_cut), alters=True),
    Damage("bytes flipped", on_bytes(_flipped), alters=True),
    Damage("bytes zeroed", on_bytes(_zeroed), alters=True),
    Damage("empty", on_bytes(lambda content, generator: b"")),
    Damage("one dot", on_bytes(lambda content, generator: b".")),
    Damage("text instead", on_bytes(lambda content, generator: b"not what you think\n" * 100)),
    Damage("a pipe instead", _pipe),
    Damage("a folder instead", _folder),
    Damage("missing", _missing),
    Damage("a link to itself", _link_to_itself),
]


def on_json(change: Callable[[Any, np.random.Generator, Path], Any]) -> Callable:
    """Damage that changes the content of one of the JSON files."""

    def apply(path: Path, generator: np.random.Generator, victim: Path) -> str | None:
        files = [file for file in files_of(path) if file.suffix == ".json" or file.name in ZARR_METADATA]
        if not files:
            return None
        file = pick(generator, files)
        content = change(json.loads(file.read_text()), generator, victim)
        if content is None:
            return None
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file.name

    return apply


def _places(content: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value, those of lists up to the third."""
    found: list[tuple[Any, Any]] = []
    if isinstance(content, dict):
        found += [(content, key) for key in content]
        for value in list(content.values())[:50]:
            found += _places(value)
    elif isinstance(content, list):
        found += [(content, number) for number in range(min(3, len(content)))]
        for value in content[:3]:
            found += _places(value)
    return found


def _with_value(*values: Any) -> Callable[[Any, np.random.Generator, Path], Any]:
    def change(content: Any, generator: np.random.Generator, victim: Path) -> Any:
        container, key = pick(generator, _places(content))
        container[key] = pick(generator, list(values))
        return content

    return change


def _other_type(content: Any, generator: np.random.Generator, victim: Path) -> Any:
    container, key = pick(generator, _places(content))
    found = container[key]
    others = ["text", [], {"a": 1}, [[1]], 1.5]
    container[key] = pick(generator, [other for other in others if type(other) is not type(found)])
    return content


def _without(content: Any, generator: np.random.Generator, victim: Path) -> Any:
    container, key = pick(generator, _places(content))
    del container[key]
    return content


JSON = [
    Damage("JSON: other type", on_json(_other_type)),
    Damage("JSON: null", on_json(_with_value(None)), alters=True),
    Damage("JSON: negative", on_json(_with_value(-1, -0.5, -(10**12))), alters=True),
    Damage("JSON: huge", on_json(_with_value(10**9, 10**15, 1e300)), alters=True),
    Damage("JSON: not finite", on_json(_with_value(float("nan"), float("inf"))), alters=True),
    Damage("JSON: path", on_json(_with_value("../victim/secret.txt", "/etc/hostname", "..")), alters=True),
    Damage("JSON: entry missing", on_json(_without), alters=True),
    Damage("JSON: deep", on_json(lambda content, generator, victim: "[" * 200_000)),
    Damage("JSON: a list", on_json(lambda content, generator, victim: [content])),
    Damage("JSON: huge number", on_json(lambda content, generator, victim: '{"a": ' + "9" * 10_000 + "}")),
]
