"""The .h5ad files that `embed` and `annotate` write: complete or absent, with a record of how they were made."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigurationError, SclmError, require

if TYPE_CHECKING:
    from pandas import Categorical

    from .stored_cells import StoredCells

_COLUMNS, _RECORD = 32, 2**20
"""Bytes that the columns of a cell, and all that does not grow with the cells, take at most."""


def read_record(path: str | Path, key: str) -> "tuple[dict[str, Any], int, Categorical | None]":
    """The record `key` of a finished file, its number of cells, and the column `key` of its `obs` if there is one."""
    h5py, io = require("h5py", extra="anndata"), require("anndata", extra="anndata").io
    with h5py.File(path) as file:
        obs = file["obs"]
        labels = io.read_elem(obs[key]) if key in obs else None
        return io.read_elem(file[f"uns/sclm_hf/{key}"]), len(obs[obs.attrs["_index"]]), labels


def read_fingerprints(path: Path) -> dict[str, str]:
    """Name of each record in a finished file -> its fingerprint; empty where there is none."""
    h5py = require("h5py", extra="anndata")
    try:
        with h5py.File(path) as file:
            records = file["uns/sclm_hf"]
            return {
                name: records[name]["fingerprint"].asstr()[()] for name in records if "fingerprint" in records[name]
            }
    except (OSError, KeyError, AttributeError, TypeError):
        return {}


def exists_already(destination: Path) -> ConfigurationError:
    """The error for a destination that holds something else."""
    return ConfigurationError(
        f"`{destination}` exists and is not the result of this command: choose another name, or pass `overwrite` "
        "(`--overwrite`)."
    )


def check_can_be_added_to(source: Path) -> None:
    """Refuse an .h5ad file to which nothing can be added, before the work.

    Raises:
        ConfigurationError: an old version of anndata wrote it.
    """
    if not source.is_file():
        return
    h5py = require("h5py", extra="anndata")
    with h5py.File(source) as file:
        groups = [file.get(name) for name in ("obs", "obsm", "uns")]
    if not all(isinstance(group, h5py.Group) for group in groups):
        raise ConfigurationError(
            f"`{source}` was written by an old version of anndata, whose files cannot be added to: read it and write "
            "it again, `anndata.read_h5ad(old).write_h5ad(new)`."
        )


@contextmanager
def complete_or_absent(source: Path, destination: Path, cells: "StoredCells", n_bytes: int) -> Iterator[Any]:
    """An open .h5ad file to add to, a copy of the source; it takes the name `destination` when all went well.

    Args:
        source: the file to copy; of anything that is no file only the names of the cells are taken.
        destination: the file to write.
        cells: the cells of the source.
        n_bytes: how much the results take.

    Raises:
        CorpusError: the source changed since it was opened.
        SclmError: there is no room, or the file cannot be written.
    """
    h5py, unfinished = require("h5py", extra="anndata"), destination.with_name(f".{destination.name}.tmp")
    try:
        if source.is_file():
            shutil.copyfile(source, unfinished)
            cells.check_unchanged()
        else:
            anndata, pandas = require("anndata", extra="anndata"), require("pandas", extra="anndata")
            anndata.AnnData(obs=pandas.DataFrame(index=cells.obs_names)).write_h5ad(unfinished)
        # HDF5 does not survive a full disk: the process would end with a segmentation fault
        if shutil.disk_usage(unfinished.parent).free < n_bytes + _COLUMNS * cells.n_obs + _RECORD:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with h5py.File(unfinished, "r+") as file:
            yield file
            file.flush()
        with open(unfinished, "rb") as written:
            os.fsync(written.fileno())
        os.replace(unfinished, destination)
    except OSError as error:
        raise SclmError(
            f"`{destination}` cannot be written: {error}. The results computed so far stay: make room and repeat the "
            "command to go on."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def add_results(
    file: Any,
    results: Iterator[tuple[slice, np.ndarray]],
    n_cells: int,
    array_key: str,
    columns_of: Callable[[np.ndarray], dict[str, Any]],
    key: str,
    record: dict[str, Any],
) -> None:
    """Write results, columns and the record into an open .h5ad file, block by block.

    Args:
        file: the open file.
        results: blocks of cells and what was computed for them, in the order of the cells.
        n_cells: number of cells.
        array_key: name of the results in `obsm`.
        columns_of: (n_cells, …) results -> what else stands in `obs`.
        key: name of the record in `uns["sclm_hf"]`; other records stay.
        record: how the results were made.
    """
    io = require("anndata", extra="anndata").io
    columns: dict[str, list] = {}
    dataset, obsm, uns = None, file["obsm"], file["uns"]
    if array_key in obsm:
        del obsm[array_key]
    for block, values in results:
        if dataset is None:
            dataset = obsm.create_dataset(array_key, (n_cells, *values.shape[1:]), values.dtype)
            dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        dataset[block] = values
        for name, column in columns_of(values).items():
            columns.setdefault(name, []).append(column)
    for name, parts in columns.items():
        _add_column(file["obs"], name, parts, io.write_elem)
    others = io.read_elem(uns["sclm_hf"]) if "sclm_hf" in uns else {}
    io.write_elem(uns, "sclm_hf", {**others, key: record})


def _add_column(obs: Any, name: str, parts: list, write_elem: Callable) -> None:
    """Write a column of `obs`, or replace it."""
    from pandas import Categorical
    from pandas.api.types import union_categoricals

    write_elem(obs, name, union_categoricals(parts) if isinstance(parts[0], Categorical) else np.concatenate(parts))
    order = [other for other in obs.attrs["column-order"] if other != name]
    obs.attrs["column-order"] = np.array([*order, name], dtype=object)
