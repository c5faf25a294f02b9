"""Results of the shards of a file, joined to those of all its cells."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigurationError, CorpusError, require
from ...files import sole_writer
from ...logging import counted, warn
from ...sources.anndata.elements import read_index
from ...sources.anndata.h5ad import open_h5ad
from ...sources.opening import open_source
from .. import get_verb
from ..running.cell_run import Results
from .file_to_file import Written
from .fingerprint import hash_of
from .h5ad import check_output, read_h5ad
from .results import (
    add_record,
    add_results,
    check_room,
    check_source,
    complete_or_absent,
    exists_already,
    read_fingerprints,
)


@dataclass(frozen=True)
class _Part:
    """The results of a shard.

    Attributes:
        path: its file.
        key: name of its record.
        record: what that says, without what is particular about the shard.
        shard: which of the cells they are.
        depends_on: everything that the results of all cells depend on, by name.
        names: (cells,) their names.
    """

    path: Path
    key: str
    record: dict[str, Any]
    shard: dict[str, int]
    depends_on: dict[str, Any]
    names: np.ndarray

    @classmethod
    def read(cls, path: str | Path) -> "_Part":
        """Read all but the results.

        Raises:
            CorpusError: it is no result of a shard.
        """
        io, path = require("anndata", extra="anndata").io, Path(path)
        with open_h5ad(path) as file:
            names = read_index(file["obs"])
            records = io.read_elem(file["uns/sclm_hf"]) if "uns/sclm_hf" in file else {}
        found = [key for key, record in records.items() if "shard" in record]
        if len(found) != 1:
            raise CorpusError(f"`{path}` holds no results of a shard: expected a file that `--shard` wrote.")
        record = records[found[0]]
        shard = record.pop("shard")
        del record["fingerprint"]
        depends_on = json.loads(str(shard.pop("depends_on")))
        return cls(path, found[0], record, {name: int(value) for name, value in shard.items()}, depends_on, names)

    @property
    def cells(self) -> slice:
        """Which cells they are."""
        return slice(self.shard["first"], self.shard["stop"])

    def differs_from(self, other: "_Part") -> list[str]:
        """The names of what the results depend on and is not the same; copies of a file may differ in time."""
        mine, its = (
            {**one.depends_on, "source files": [size for size, _ in one.depends_on["source files"]]}
            for one in (self, other)
        )
        alike = {"name of the results": self.key == other.key, "shards": self.shard["of"] == other.shard["of"]}
        alike |= {"cells": self.shard["n_cells"] == other.shard["n_cells"]}
        alike |= {"coverage of the genes": str(self.record["coverage"]) == str(other.record["coverage"])}
        alike |= {name: mine.get(name) == its.get(name) for name in {**mine, **its}}
        return sorted(name for name, same in alike.items() if not same)


class _Joined:
    """The cells of all parts, as far as a file of results needs them; see `CellSource`."""

    def __init__(self, names: np.ndarray) -> None:
        self.n_cells, self._names = len(names), names

    def obs_names(self) -> np.ndarray:
        """(n_cells,) names of the cells."""
        return self._names


def merge_shards(
    destination: str | Path,
    parts: Sequence[str | Path],
    source: str | Path | None = None,
    *,
    overwrite: bool = False,
) -> Written:
    """Join the results of all shards of a file, the same as those of one run of all cells.

    Args:
        destination: the .h5ad file to write.
        parts: the files of the shards, in any order.
        source: the file that the cells came from, which is copied with the results; without it, the names of the cells
            and the results are written.
        overwrite: replace the destination.

    Returns:
        The file, written or found finished, and the name of its record in `uns["sclm_hf"]`.

    Raises:
        ConfigurationError: cells are lost or doubled; the parts were made of other cells, by another model or with
            other settings; `source` holds other cells; or the destination cannot be written.
        CorpusError: a part is none, or a file cannot be read.
        SclmError: no space is left.
    """
    if not parts:
        raise ConfigurationError("Name the files of the shards to merge.")
    for path in (*parts, *([] if source is None else [source])):
        destination = check_output(destination, source=path, overwrite=True)
    found = sorted((_Part.read(path) for path in parts), key=lambda part: (part.shard["first"], str(part.path)))
    _refuse_others(found)
    _refuse_lost_or_doubled(found)
    first, names = found[0], np.concatenate([part.names for part in found])
    if destination.exists():
        # it may have been stopped just after it was named
        if _is_finished(destination, first, source):
            return Written(destination, first.key)
        if not overwrite:
            raise exists_already(destination)
    verb = get_verb(first.depends_on["task"][0])
    columns = _columns(first)
    cells, copied = _cells(source, destination, names, first)
    if source is not None:
        check_source(copied, verb.writes, columns)
        check_room(copied, destination)
    n_bytes = sum(part.path.stat().st_size for part in found)
    with (
        sole_writer(destination),
        complete_or_absent(copied, destination, cells, n_bytes, verb.writes, columns) as file,
    ):
        add_results(file, _results(found), len(names))
        told = verb.run.join(first.key, [part.record for part in found], names, file)
        add_record(file, first.key, {**first.record, **told, "fingerprint": hash_of(first.depends_on)})
    return Written(destination, first.key)


def _is_finished(destination: Path, part: _Part, source: str | Path | None) -> bool:
    """Whether a file holds the results of all cells, and the data where they are copied."""
    if read_fingerprints(destination).get(part.key) != hash_of(part.depends_on):
        return False
    with open_h5ad(destination) as file:
        holds_data = len(read_index(file["var"])) > 0
    return holds_data == (source is not None and Path(source).suffix == ".h5ad")


def _refuse_others(parts: Sequence[_Part]) -> None:
    """Raise if the parts are not those of one run; warn if they ran on different machines or in other batches."""
    for part in parts[1:]:
        if differs := part.differs_from(parts[0]):
            raise ConfigurationError(
                f"`{part.path}` and `{parts[0].path}` are not parts of one run; they differ in {', '.join(differs)}: "
                "merge parts of the same cells, model and settings, and repeat those that are not."
            )
    made_with = {
        "device": [part.record["device"] for part in parts],
        "versions": [part.record["versions"] for part in parts],
        "batch sizes": [part.record.get("settings", {}).get("batch_size") for part in parts],
    }
    for what, values in made_with.items():
        if len(set(map(str, values))) > 1:
            warn(f"The parts were made with different {what}: their results may differ in the last digits.")


def _refuse_lost_or_doubled(parts: Sequence[_Part]) -> None:
    """Raise if a cell is in no part, or in two."""
    for before, after in pairwise(parts):
        if after.shard["first"] < before.shard["stop"]:
            raise ConfigurationError(
                f"`{before.path}` and `{after.path}` both hold cell {after.names[0]!r}: name each shard once."
            )
    there = {part.shard["number"] for part in parts}
    n_shards, n_cells = parts[0].shard["of"], parts[0].shard["n_cells"]
    if lost := [f"{number}/{n_shards}" for number in range(1, n_shards + 1) if number not in there]:
        n_lost = n_cells - sum(len(part.names) for part in parts)
        raise ConfigurationError(
            f"{counted(n_lost, 'cell')} of {n_cells:,} are lost: no part holds {counted(len(lost), 'shard')}, "
            f"{', '.join(lost[:5])}{', …' if len(lost) > 5 else ''}. Name them, or run them (`--shard {lost[0]}`)."
        )
    ends = [(part.shard["first"], part.shard["stop"]) for part in parts]
    whole = [0, *(stop for _, stop in ends)] == [*(start for start, _ in ends), n_cells]
    if not whole or any(len(part.names) != stop - start for part, (start, stop) in zip(parts, ends, strict=True)):
        raise CorpusError(f"The parts of {n_cells:,} cells hold other cells than they say: run them again.")


def _cells(source: str | Path | None, destination: Path, names: np.ndarray, part: _Part) -> tuple[Any, Path]:
    """The cells of the file to copy, and that file; a folder where only names are copied."""
    if source is None:
        return _Joined(names), destination.resolve().parent
    source = Path(source)
    cells = open_source(source.stem, source, layer=part.depends_on["layer"], expects="any")
    sizes = [[size for size, _ in stamp] for stamp in (cells.stamp, part.depends_on["source files"])]
    if sizes[0] != sizes[1] or not np.array_equal(cells.obs_names().astype(str), names.astype(str)):
        raise ConfigurationError(
            f"`{source}` is not the file that the parts were made of: name `{part.depends_on['source']}` as it was "
            "then, or leave out `source` (`--input`)."
        )
    cells.check_columns()
    return cells, source


def _columns(part: _Part) -> tuple[str, ...]:
    """Names of the columns that `obs` will get."""
    with open_h5ad(part.path) as file:
        return tuple(map(str, file["obs"].attrs["column-order"]))


def _results(parts: Sequence[_Part]) -> Iterator[tuple[slice, Results]]:
    """The results, part by part."""
    for part in parts:
        adata = read_h5ad(part.path)
        obs = {
            name: column.array if hasattr(column, "cat") else column.to_numpy() for name, column in adata.obs.items()
        }
        yield part.cells, Results(obs=obs, obsm=dict(adata.obsm))
