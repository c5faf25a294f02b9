"""Damage to AnnData zarr folders."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numcodecs
import numpy as np

from .damage import FILES, JSON, ZARR_METADATA, Damage, files_of, pick


def _link_out(path: Path, generator: np.random.Generator, victim: Path) -> str:
    file = pick(generator, files_of(path))
    file.unlink()
    file.symlink_to(victim / "secret.txt")
    return str(file.relative_to(path))


def _folder_link_out(path: Path, generator: np.random.Generator, victim: Path) -> str:
    folder = pick(generator, sorted(entry for entry in path.rglob("*") if entry.is_dir()))
    copy = victim / f"copy of {folder.name}"
    if not copy.exists():
        shutil.copytree(folder, copy)
    shutil.rmtree(folder)
    folder.symlink_to(copy)
    return str(folder.relative_to(path))


def _shape(content: dict, generator: np.random.Generator, victim: Path) -> dict | None:
    if "shape" not in content or not content["shape"]:
        return None
    place = int(generator.integers(len(content["shape"])))
    content["shape"][place] = pick(generator, [2**50, 2**33, content["shape"][place] + 3, 1, 0, -1, 1.5, "a"])
    return content


def _chunks(content: dict, generator: np.random.Generator, victim: Path) -> dict | None:
    found = content.get("chunks") or content.get("chunk_grid", {}).get("configuration", {}).get("chunk_shape")
    if not found:
        return None
    found[0] = pick(generator, [2**50, 2**34, 0, -1, found[0] + 1, "a"])
    return content


def _kind(content: dict, generator: np.random.Generator, victim: Path) -> dict | None:
    name = "dtype" if "dtype" in content else "data_type"
    if name not in content:
        return None
    content[name] = pick(generator, ["<f8", "<i8", "|S900000000", "float64", "int8", "complex128", "nonsense", "|O"])
    return content


def _codec(content: dict, generator: np.random.Generator, victim: Path) -> dict | None:
    if "codecs" in content:
        content["codecs"] = pick(generator, [[], [{"name": "nonsense"}], "text", content["codecs"][:1]])
    elif "compressor" in content:
        content["compressor"] = pick(generator, [{"id": "nonsense"}, {"id": "pickle"}, None, "text"])
        content["filters"] = pick(generator, [None, [{"id": "pickle"}], content.get("filters")])
    else:
        return None
    return content


def _bomb(path: Path, generator: np.random.Generator, victim: Path) -> str:
    """A chunk that unpacks to 2 GiB of zeros, packed by Zstandard or else by Blosc."""
    file = pick(generator, [file for file in files_of(path) if file.name not in ZARR_METADATA])
    blocks = [(2**17 << 3 | 1 << 1 | (number == 2**14 - 1)).to_bytes(3, "little") for number in range(2**14)]
    magic = b"\x28\xb5\x2f\xfd"
    of_unknown_size = magic + b"\x00\x58" + b"\0".join(blocks) + b"\0"
    packed = bytearray(numcodecs.Blosc().encode(bytes(2**16)))
    packed[4:8] = (2**31 - 17).to_bytes(4, "little")
    file.write_bytes(of_unknown_size if file.read_bytes()[:4] == magic else packed)
    return str(file.relative_to(path))


def _changed(change: Callable) -> Callable:
    def tried(path: Path, generator: np.random.Generator, victim: Path) -> str | None:
        for _ in range(50):
            files = [file for file in files_of(path) if file.name in ZARR_METADATA]
            file = pick(generator, files)
            content = change(json.loads(file.read_text()), generator, victim)
            if content is not None:
                file.write_text(json.dumps(content))
                return str(file.relative_to(path))
        return None

    return tried


ZARR = [
    *FILES,
    *JSON,
    Damage("link out of the folder", _link_out, refused=True),
    Damage("folder linked out", _folder_link_out, refused=True),
    Damage("compressed bomb", _bomb),
    Damage("shape changed", _changed(_shape)),
    Damage("chunks changed", _changed(_chunks)),
    Damage("type changed", _changed(_kind), alters=True),
    Damage("codec changed", _changed(_codec)),
]
