"""Damage to .h5ad files."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .damage import FILES, Damage, pick


def _on_file(change: Callable[[h5py.File, np.random.Generator, Path], str | None]) -> Callable:
    def apply(path: Path, generator: np.random.Generator, victim: Path) -> str | None:
        with h5py.File(path, "r+") as file:
            return change(file, generator, victim)

    return apply


def _names(file: h5py.File, kind: type | tuple = (h5py.Dataset, h5py.Group)) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, kind) else None)
    return sorted(found)


def _replace(file: h5py.File, name: str, data: Any, **options: Any) -> None:
    """Another dataset in the place of one, with its attributes."""
    attributes = dict(file[name].attrs)
    del file[name]
    file.create_dataset(name, data=data, **options).attrs.update(attributes)


def _on_dataset(change: Callable[[np.ndarray, np.random.Generator], np.ndarray | None]) -> Callable:
    def apply(file: h5py.File, generator: np.random.Generator, victim: Path) -> str | None:
        name = pick(generator, [name for name in _names(file, h5py.Dataset) if file[name].shape])
        values = change(file[name][()], generator)
        if values is None:
            return None
        _replace(file, name, values)
        return name

    return _on_file(apply)


def _delete(file: h5py.File, generator: np.random.Generator, victim: Path) -> str:
    name = pick(generator, _names(file))
    del file[name]
    return name


def _delete_attribute(file: h5py.File, generator: np.random.Generator, victim: Path) -> str:
    place, name = pick(generator, [(place, name) for place in ["/", *_names(file)] for name in file[place].attrs])
    del file[place].attrs[name]
    return f"{place}@{name}"


def _change_attribute(file: h5py.File, generator: np.random.Generator, victim: Path) -> str:
    place, name = pick(generator, [(place, name) for place in ["/", *_names(file)] for name in file[place].attrs])
    values = [
        "nonsense",
        "../../victim",
        -1,
        np.array([2**62, 2**62]),
        np.array([1.5, 2.5]),
        np.array([-5, 20]),
        b"\xff",
    ]
    file[place].attrs[name] = pick(generator, values)
    return f"{place}@{name}"


def _claim_shape(file: h5py.File, generator: np.random.Generator, victim: Path) -> str | None:
    if not isinstance(file["X"], h5py.Group):
        return None
    n_cells, n_genes = file["X"].attrs["shape"]
    shapes = [
        (2**40, n_genes),
        (n_cells, 2**40),
        (n_cells - 1, n_genes),
        (n_cells, n_genes - 1),
        (0, 0),
        (-1, n_genes),
    ]
    shape = pick(generator, shapes)
    file["X"].attrs["shape"] = np.array(shape)
    return f"X@shape = {shape}"


def _shorter(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return values[: max(0, len(values) - int(generator.integers(1, 4)))]


def _longer(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return np.concatenate([values, values[:2]])


def _other_type(values: np.ndarray, generator: np.random.Generator) -> np.ndarray | None:
    if values.dtype.kind not in "iufb":
        return np.arange(len(values), dtype=float)
    kinds = [values.astype(float) + 0.5, values.astype(str).astype("S"), values.astype(complex) + 1j, values[:, None]]
    return pick(generator, kinds)


def _wrong_values(*values: float) -> Callable:
    def change(array: np.ndarray, generator: np.random.Generator) -> np.ndarray | None:
        if array.dtype.kind not in "iuf" or not array.size:
            return None
        value = pick(generator, list(values))
        if array.dtype.kind in "iu" and (
            not np.isfinite(value) or not np.can_cast(np.min_scalar_type(int(value)), array.dtype)
        ):
            return None
        array.ravel()[generator.integers(array.size, size=2)] = value
        return array

    return change


def _swapped_kind(file: h5py.File, generator: np.random.Generator, victim: Path) -> str:
    name = pick(generator, _names(file))
    is_group = isinstance(file[name], h5py.Group)
    del file[name]
    if is_group:
        file[name] = "text"
    else:
        file.create_group(name)
    return name


def _external_link(file: h5py.File, generator: np.random.Generator, victim: Path) -> str:
    name = pick(generator, [*_names(file), "obsm", "uns", "obs"])
    if name in file:
        del file[name]
    file[name] = h5py.ExternalLink(str(victim / "victim.h5ad"), name)
    return name


def _soft_link(file: h5py.File, generator: np.random.Generator, victim: Path) -> str:
    name = pick(generator, _names(file))
    target = pick(generator, ["/nowhere", "/", f"/{name}"])
    del file[name]
    file[name] = h5py.SoftLink(target)
    return f"{name} -> {target}"


def _circle(file: h5py.File, generator: np.random.Generator, victim: Path) -> str:
    name = pick(generator, ["uns", "obsm", "obs", "layers"])
    file.require_group(name)["again"] = file["/"]
    return name


def _virtual(file: h5py.File, generator: np.random.Generator, victim: Path) -> str:
    name = pick(generator, [name for name in _names(file, h5py.Dataset) if file[name].shape])
    found = file[name]
    layout = h5py.VirtualLayout(found.shape, found.dtype)
    with h5py.File(victim / "victim.h5ad") as other:
        there = name in other and other[name].shape == found.shape
    source = h5py.VirtualSource(str(victim / "victim.h5ad"), name if there else "X/data", found.shape, found.dtype)
    layout[...] = source
    attributes = dict(found.attrs)
    del file[name]
    file.create_virtual_dataset(name, layout).attrs.update(attributes)
    return name


def _external_storage(file: h5py.File, generator: np.random.Generator, victim: Path) -> str:
    name = pick(generator, [name for name in _names(file, h5py.Dataset) if file[name].shape])
    shape, attributes = file[name].shape, dict(file[name].attrs)
    kind = file[name].dtype if file[name].dtype.kind in "iuf" else np.dtype("S20")
    del file[name]
    size = int(np.prod(shape)) * kind.itemsize
    place = [(str(victim / "secret.txt"), 0, size)]
    file.create_dataset(name, shape, kind, external=place).attrs.update(attributes)
    return name


def _never_written(file: h5py.File, generator: np.random.Generator, victim: Path) -> str:
    name = pick(generator, [name for name in _names(file, h5py.Dataset) if len(file[name].shape) == 1])
    kind, attributes = file[name].dtype, dict(file[name].attrs)
    del file[name]
    file.create_dataset(name, (2**36,), kind, chunks=(2**16,)).attrs.update(attributes)
    return name


def _bomb(file: h5py.File, generator: np.random.Generator, victim: Path) -> str:
    name = pick(generator, [name for name in _names(file, h5py.Dataset) if len(file[name].shape) == 1])
    attributes = dict(file[name].attrs)
    kind = file[name].dtype if file[name].dtype.kind in "iuf" else np.dtype("S8")
    del file[name]
    entries = 2**26 // kind.itemsize
    bomb = file.create_dataset(name, (entries * 64,), kind, chunks=(entries,), compression="gzip")
    packed = zlib.compress(bytes(2**26), 9)
    for number in range(64):
        bomb.id.write_direct_chunk((number * entries,), packed)
    bomb.attrs.update(attributes)
    return name


def _names_of_bytes(file: h5py.File, generator: np.random.Generator, victim: Path) -> str:
    frame = pick(generator, ["obs", "var"])
    name = f"{frame}/_index"
    values = pick(generator, [[b"\xff\xfe"], [b"same"], [b""], [b"a" * 1000]])
    _replace(file, name, np.array(values * file[name].shape[0], dtype="S1000"))
    return name


def _our_record(file: h5py.File, generator: np.random.Generator, victim: Path) -> str:
    if "sclm_hf" in file["uns"]:
        del file["uns/sclm_hf"]
    file["uns/sclm_hf"] = pick(generator, ["text", 5, np.arange(3)])
    return "uns/sclm_hf"


def _unknown_filter(file: h5py.File, generator: np.random.Generator, victim: Path) -> str:
    name = pick(generator, [name for name in _names(file, h5py.Dataset) if len(file[name].shape) == 1])
    found = file[name]
    values, attributes = found[()], dict(found.attrs)
    if values.dtype.kind not in "iuf":
        values = np.arange(len(values))
    del file[name]
    space = h5py.h5s.create_simple(values.shape)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((len(values),))
    # blosc, which h5py does not bring along; optional, so that the file can be written
    properties.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())
    made = h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(values.dtype), space, properties)
    dataset = h5py.Dataset(made)
    dataset.id.write_direct_chunk((0,), values.tobytes(), 0)
    dataset.attrs.update(attributes)
    return name


HDF5 = [
    *FILES,
    Damage("object missing", _on_file(_delete), alters=True),
    Damage("attribute missing", _on_file(_delete_attribute), alters=True),
    Damage("attribute changed", _on_file(_change_attribute), alters=True),
    Damage("other shape claimed", _on_file(_claim_shape)),
    Damage("array shorter", _on_dataset(_shorter)),
    Damage("array longer", _on_dataset(_longer)),
    Damage("array of another type", _on_dataset(_other_type)),
    Damage("values NaN", _on_dataset(_wrong_values(np.nan)), alters=True),
    Damage("values infinite", _on_dataset(_wrong_values(np.inf, -np.inf)), alters=True),
    Damage("values negative", _on_dataset(_wrong_values(-1, -7)), alters=True),
    Damage("values huge", _on_dataset(_wrong_values(2**31 - 1, 100)), alters=True),
    Damage("group for array", _on_file(_swapped_kind), alters=True),
    Damage("external link", _on_file(_external_link), refused=True),
    Damage("soft link", _on_file(_soft_link), alters=True),
    Damage("circle of groups", _on_file(_circle)),
    Damage("virtual array", _on_file(_virtual), refused=True),
    Damage("external storage", _on_file(_external_storage), refused=True),
    Damage("huge array never written", _on_file(_never_written)),
    Damage("compressed bomb", _on_file(_bomb)),
    Damage("names of bytes", _on_file(_names_of_bytes), alters=True),
    Damage("record of other kind", _on_file(_our_record)),
    Damage("unknown filter", _on_file(_unknown_filter)),
]
