"""What a folder of shards holds: `manifest.json`, with the size and the checksum of every shard.

A folder of shards::

    manifest.json
    README.md                       dataset card; `datasets.load_dataset(folder)` reads its `configs`
    genes.parquet                   dataset, gene_index, gene_name, ensembl_id
    data/<dataset>/00000.parquet    one row per cell, see `shards.py`
"""

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ...errors import CorpusError
from ...files import read_json_object
from ..containment import refuse_entry_out

MANIFEST_FILE = "manifest.json"
GENES_FILE = "genes.parquet"
CARD_FILE = "README.md"
FORMAT = "sclm_hf corpus 1"

_DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BYTES_A_CELL = 8
"""The id of a cell is a random number, which nothing packs."""

_RESERVED = ("default", "genes")


@dataclass(frozen=True)
class Shard:
    """One Parquet file.

    Attributes:
        file: its path below the folder, with `/`.
        n_cells: its rows.
        n_bytes: its size.
        sha256: hash of its bytes.
        n_empty: cells without counts that were left out where it was written.
        largest_count: the largest count in it.
    """

    file: str
    n_cells: int
    n_bytes: int
    sha256: str
    n_empty: int
    largest_count: int


@dataclass
class ShardedDataset:
    """The shards of one source.

    Attributes:
        n_genes: genes of its gene table.
        source: name of the file that it was made from.
        n_filtered: cells that conditions on `obs` left out.
        shards: its shards in order.
        labels: column of `obs` -> value -> number of cells.
    """

    n_genes: int
    source: str
    n_filtered: int = 0
    shards: list[Shard] = field(default_factory=list)
    labels: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return sum(shard.n_cells for shard in self.shards)

    @property
    def n_empty(self) -> int:
        """Cells without counts that were left out."""
        return sum(shard.n_empty for shard in self.shards)


@dataclass
class Manifest:
    """Everything that is known about a folder of shards without opening them.

    Attributes:
        title, license, organism, description: what the card says of them.
        obs_columns: columns of `obs` that the shards carry.
        shard_size: most cells of a shard.
        row_group_size: cells of a row group; only the last one of a shard may be smaller.
        sclm_hf: version of the package that wrote them.
        build_id: stands for the inputs and settings that they were made from.
        datasets: name -> its shards.
    """

    title: str
    license: str
    organism: str
    description: str
    obs_columns: list[str]
    shard_size: int
    row_group_size: int
    sclm_hf: str
    build_id: str
    datasets: dict[str, ShardedDataset] = field(default_factory=dict)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return sum(dataset.n_cells for dataset in self.datasets.values())

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read what `to_json` wrote.

        Raises:
            CorpusError: it is something else, names a file twice or one outside the folder, or claims more cells than
                its files can hold.
        """
        content = read_json_object(path, CorpusError)
        try:
            if content.pop("format", None) != FORMAT:
                raise CorpusError(f"it does not say `format: {FORMAT}`")
            datasets = content.pop("datasets")
            manifest = _typed(cls, content)
            for name, values in datasets.items():
                shards = [_typed(Shard, shard) for shard in values.pop("shards")]
                manifest.datasets[check_dataset_name(name)] = _typed(ShardedDataset, values)
                manifest.datasets[name].shards = shards
                _check_shards(shards, name)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise CorpusError(f"`{path}` is damaged or no manifest of shards: {error}.") from error
        return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        CorpusError: there is none, or it is damaged or names a file outside the folder.
    """
    path = folder / MANIFEST_FILE
    refuse_entry_out(path, folder)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CorpusError(
            f"`{folder}` holds no `{MANIFEST_FILE}`: expected a folder of shards that `sclm-hf corpus build` wrote."
        ) from error
    except OSError as error:
        raise CorpusError(f"`{path}` cannot be read: {error}.") from error
    return _read(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _read(path: Path, size: int, time: int) -> Manifest:
    return Manifest.read(path)


def check_dataset_name(name: str) -> str:
    """Refuse a name that cannot be the name of a folder and of a configuration of `datasets`.

    Raises:
        CorpusError: it cannot.
    """
    if not _DATASET_NAME.fullmatch(name) or name in _RESERVED:
        raise CorpusError(
            f"`{name}` cannot be the name of a data set: expected letters, digits, `.`, `_` and `-`, and none of "
            f"{', '.join(_RESERVED)}. Name it with `NAME=PATH`"
        )
    return name


def check_inside(file: str, dataset: str) -> None:
    """Refuse a file name that is not one of `data/<dataset>/`.

    Raises:
        CorpusError: it leads elsewhere.
    """
    path = PurePosixPath(file)
    plain = path.parts == ("data", dataset, path.name) and path.suffix == ".parquet"
    if not plain or file != str(path) or len(PureWindowsPath(file).parts) != 3:
        raise CorpusError(f"the file name `{file}` is not `data/{dataset}/<name>.parquet`: it may lead elsewhere")


def _check_shards(shards: list[Shard], dataset: str) -> None:
    """Refuse shards that are named twice, lie elsewhere or claim more cells than so many bytes can be."""
    names = Counter(shard.file for shard in shards)
    for shard in shards:
        check_inside(shard.file, dataset)
        if names[shard.file] > 1:
            raise CorpusError(f"it names `{shard.file}` {names[shard.file]} times")
        if shard.n_cells * _BYTES_A_CELL > shard.n_bytes:
            raise CorpusError(
                f"`{shard.file}` cannot hold {shard.n_cells:,} cells in {shard.n_bytes:,} bytes: each takes at least "
                f"{_BYTES_A_CELL}, those of its id"
            )


def _typed(kind: type, values: dict[str, Any]) -> Any:
    """A dataclass from JSON, its simple fields of the right types and all there."""
    for one in fields(kind):
        if one.name in values and one.type in (int, str) and type(values[one.name]) is not one.type:
            raise CorpusError(f"`{one.name}` is {values[one.name]!r:.100}, not {one.type.__name__}")
        if one.type is int and values.get(one.name, 0) < 0:
            raise CorpusError(f"`{one.name}` is negative")
        if one.type == list[str] and not all(isinstance(name, str) for name in values.get(one.name, [])):
            raise CorpusError(f"`{one.name}` is {values[one.name]!r:.100}, not a list of text")
    return kind(**values)
