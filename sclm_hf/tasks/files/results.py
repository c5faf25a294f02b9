"""The .h5ad files that verbs write: complete or absent, with a record of how they were made."""

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError, SclmError, require
from ...files import written_whole
from ...sources.anndata.elements import read_index
from ...sources.anndata.h5ad import open_h5ad
from ...sources.anndata.whole_file import refuse_unreadable
from ...sources.cell_source import CellSource
from .h5ad import write_h5ad

if TYPE_CHECKING:
    from pandas import Categorical, DataFrame

    from ..running.cell_run import Results

_COLUMNS, _RECORD = 32, 2**20
"""Most bytes that the columns take per cell, and that everything independent of the number of cells takes."""


def read_record(path: str | Path, key: str) -> "tuple[dict[str, Any], int, Categorical | None]":
    """The record `key` of a finished file, its number of cells, and the column `key` of its `obs` if there is one.

    Raises:
        CorpusError: links in the file lead out of it, or it cannot be read.
    """
    io = require("anndata", extra="anndata").io
    with open_h5ad(Path(path)) as file:
        cells = _holding(file, key)
        obs = cells["obs"]
        labels = io.read_elem(obs[key]) if key in obs else None
        return io.read_elem(cells[f"uns/sclm_hf/{key}"]), len(read_index(obs)), labels


def read_columns(path: str | Path, names: Sequence[str]) -> "DataFrame":
    """Columns of `obs` of a finished file, without its other data; errors are those of [`read_record`]."""
    pandas, io = require("pandas", extra="anndata"), require("anndata", extra="anndata").io
    with open_h5ad(Path(path)) as file:
        return pandas.DataFrame({name: io.read_elem(file["obs"][name]) for name in names})


def has_column(path: str | Path, name: str) -> bool:
    """Whether `obs` of a finished file has a column; errors are those of [`read_record`]."""
    with open_h5ad(Path(path)) as file:
        return name in file["obs"]


def _holding(file: Any, key: str) -> Any:
    """Where a file holds a record: at its top, or in a modality."""
    parts = [file, *(file["mod"].values() if "mod" in file else ())]
    return next((part for part in parts if f"uns/sclm_hf/{key}" in part), file)


def read_fingerprints(path: Path) -> dict[str, str]:
    """Name of each record in a finished file -> its fingerprint; empty where there is none."""
    try:
        with open_h5ad(path) as file:
            records = file["uns/sclm_hf"]
            return {
                name: records[name]["fingerprint"].asstr()[()] for name in records if "fingerprint" in records[name]
            }
    except (SclmError, OSError, KeyError, AttributeError, TypeError):
        return {}


def exists_already(destination: Path) -> ConfigurationError:
    """The error for a destination that holds something else."""
    return ConfigurationError(
        f"`{destination}` exists and is not the result of this command: choose another name, or pass `overwrite` "
        "(`--overwrite`)."
    )


def check_source(source: Path, places: Sequence[str], columns: Sequence[str] = ()) -> None:
    """Raise if results could not be added to a source, before any work is done.

    Args:
        source: an .h5ad file; folders are not checked, because nothing is added to them.
        places: the places of the AnnData to which results are added.
        columns: names of the columns that `obs` will get.

    Raises:
        CorpusError: it is missing or not HDF5, parts of it are stored in other files, or it is not a readable AnnData.
        ConfigurationError: nothing can be added.
    """
    if source.is_dir():
        return
    with open_h5ad(source, whole=True) as file:
        _check_can_be_added_to(file, source, places, columns)
        refuse_unreadable(file, source)


def _check_can_be_added_to(file: Any, source: Path, places: Sequence[str], columns: Sequence[str]) -> None:
    h5py = require("h5py", extra="anndata")
    anew = f"read it and write it again, `anndata.read_h5ad({source.name!r}).write_h5ad(new)`"
    groups = {name: file.get(name) for name in dict.fromkeys(("obs", *places, "uns"))}
    if not all(isinstance(group, h5py.Group) for group in groups.values()):
        lacking = ", ".join(name for name, group in groups.items() if not isinstance(group, h5py.Group))
        raise ConfigurationError(
            f"`{source}` was written by an old version of anndata or is incomplete (no group {lacking}), and nothing "
            f"can be added to it: {anew}."
        )
    attributes, records = groups["obs"].attrs, groups["uns"].get("sclm_hf")
    if absent := [name for name in ("_index", "column-order") if name not in attributes]:
        raise ConfigurationError(f"`{source}`: `obs` has no attribute {absent[0]!r}: {anew}.")
    if records is not None and not isinstance(records, h5py.Group):
        raise ConfigurationError(f"`{source}`: `uns['sclm_hf']` must be a mapping of records: rename or delete it.")
    if attributes["_index"] in columns:
        raise ConfigurationError(
            f"`{source}`: {attributes['_index']!r} holds the names of the cells: give another `key_added` (`--key`)."
        )


def check_room(source: Path, destination: Path) -> None:
    """Raise if the disk has no room for the copy, before any work is done.

    Raises:
        ConfigurationError: too little space is left.
    """
    needed = source.stat().st_size if source.is_file() else 0
    free = shutil.disk_usage(destination.resolve().parent).free
    if free < needed + _RECORD:
        raise ConfigurationError(
            f"`{destination}` takes {needed / 1e9:,.1f} GB, the size of `{source}`, and more for the results, and "
            f"{free / 1e9:,.1f} GB are left: make room, or name a file on another disk."
        )


@contextmanager
def complete_or_absent(
    source: Path,
    destination: Path,
    cells: CellSource,
    n_bytes: int,
    places: Sequence[str],
    columns: Sequence[str] = (),
    part: slice | None = None,
) -> Iterator[Any]:
    """A copy of the source, open for adding results; it is renamed to `destination` when all went well.

    Args:
        source: the file to copy; of a folder, only the names of the cells are copied.
        destination: the file to write.
        cells: the cells of the source.
        n_bytes: how much the results take.
        places: the places of the AnnData that results are added to.
        columns: names of the columns that `obs` will get.
        part: copy only the names of these cells.

    Raises:
        CorpusError: the source changed since it was opened.
        SclmError: there is no room, or the file cannot be written.
    """
    with written_whole(destination) as unfinished:
        if source.is_file() and part is None:
            shutil.copyfile(source, unfinished)
            # refuses a source that changed
            cells.read(np.arange(1))
        else:
            anndata, pandas = require("anndata", extra="anndata"), require("pandas", extra="anndata")
            var = pandas.DataFrame(index=cells.genes()[0] if "layers" in places else [])
            names = cells.obs_names()[slice(None) if part is None else part]
            write_h5ad(anndata.AnnData(obs=pandas.DataFrame(index=names), var=var), unfinished)
        _reserve(unfinished, n_bytes + _COLUMNS * cells.n_cells + _RECORD)
        # what was copied may be another file than that which was checked before the work
        with open_h5ad(unfinished, "r+") as file:
            _check_can_be_added_to(file, source, places, columns)
            yield file


def _reserve(path: Path, n_bytes: int) -> None:
    """Reserve space at the end of a file, because HDF5 does not survive a full disk; the rest is released."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), path.stat().st_size, n_bytes)
    elif shutil.disk_usage(path.parent).free < n_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def add_results(
    file: Any, results: "Iterable[tuple[slice | np.ndarray, Results]]", n_cells: int, part: slice | None = None
) -> None:
    """Write results into an open .h5ad file, block by block.

    Args:
        file: the open file.
        results: blocks of cells and what is added for them, in the order of the cells.
        n_cells: number of cells.
        part: the cells that the file holds, where those are not all.
    """
    first, last, _ = (slice(None) if part is None else part).indices(n_cells)
    write_elem = require("anndata", extra="anndata").io.write_elem
    columns: dict[str, list] = {}
    arrays: dict[tuple[str, str], Any] = {}
    for block, some in results:
        for name, column in some.obs.items():
            columns.setdefault(name, []).append(column)
        for place, values in some.by_place()[1:]:
            for name, value in values.items():
                if place == "uns" or not isinstance(value, np.ndarray):
                    write_elem(file[place], name, value)
                    continue
                if (place, name) not in arrays:
                    arrays[place, name] = _new_array(file[place], name, (last - first, *value.shape[1:]), value.dtype)
                arrays[place, name][block if part is None else slice(block.start - first, block.stop - first)] = value
    for name, parts in columns.items():
        _add_column(file["obs"], name, parts, write_elem)


def add_record(file: Any, key: str, record: dict[str, Any]) -> None:
    """Write how results were made to `uns["sclm_hf"][key]` of an open .h5ad file; other records stay."""
    write_elem = require("anndata", extra="anndata").io.write_elem
    if "sclm_hf" not in file["uns"]:
        write_elem(file["uns"], "sclm_hf", {})
    write_elem(file["uns"]["sclm_hf"], key, record)


def _new_array(group: Any, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """A new array in a group of an .h5ad file; one of the same name is replaced."""
    if name in group:
        del group[name]
    dataset = group.create_dataset(name, shape, dtype)
    dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return dataset


def _add_column(obs: Any, name: str, parts: list, write_elem: Callable) -> None:
    """Write a column of `obs`, or replace it."""
    from pandas import Categorical
    from pandas.api.types import union_categoricals

    write_elem(obs, name, union_categoricals(parts) if isinstance(parts[0], Categorical) else np.concatenate(parts))
    order = [other for other in obs.attrs["column-order"] if other != name]
    obs.attrs["column-order"] = np.array([*order, name], dtype=object)
