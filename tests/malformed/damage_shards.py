"""Damage to folders of Parquet shards."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .damage import FILES, JSON, Damage, pick


def _shards(path: Path) -> list[Path]:
    return sorted((path / "data").rglob("*.parquet"))


def _on_table(change: Callable[[pa.Table, np.random.Generator], pa.Table | None], *, known: bool) -> Callable:
    """Damage to the table of a shard; `known` brings the manifest up to date, as one who means harm would."""

    def apply(path: Path, generator: np.random.Generator, victim: Path) -> str | None:
        file = pick(generator, _shards(path))
        with pq.ParquetFile(file) as shard:
            table, metadata = shard.read(), shard.metadata.metadata
        table = change(table, generator)
        if table is None:
            return None
        with pq.ParquetWriter(file, table.schema, store_schema=False) as writer:
            writer.write_table(table, row_group_size=32)
            writer.add_key_value_metadata({"sclm_hf": metadata[b"sclm_hf"].decode()})
        if known:
            _update_manifest(path, file, table.num_rows)
        return file.name

    return apply


def _update_manifest(path: Path, file: Path, n_cells: int) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    for dataset in manifest["datasets"].values():
        for shard in dataset["shards"]:
            if shard["file"] == str(file.relative_to(path)):
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                shard |= {"n_cells": n_cells, "n_bytes": file.stat().st_size, "sha256": digest}
    (path / "manifest.json").write_text(json.dumps(manifest))


def _without_column(table: pa.Table, generator: np.random.Generator) -> pa.Table:
    return table.drop_columns([pick(generator, ["cell_name", "dataset", "cell_id", "gene_index", "counts"])])


def _without_rows(table: pa.Table, generator: np.random.Generator) -> pa.Table:
    return table.slice(0, table.num_rows - 2)


def _replaced(table: pa.Table, name: str, lists: list, kind: pa.DataType | None = None) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, pa.array(lists, kind))


def _counts(value, kind: pa.DataType) -> Callable:
    def change(table: pa.Table, generator: np.random.Generator) -> pa.Table:
        lists = table["counts"].to_pylist()
        lists[int(generator.integers(len(lists)))][0] = value
        return _replaced(table, "counts", lists, pa.list_(kind))

    return change


def _genes(value) -> Callable:
    def change(table: pa.Table, generator: np.random.Generator) -> pa.Table:
        lists = table["gene_index"].to_pylist()
        row = lists[int(generator.integers(len(lists)))]
        row[-1] = value if value is not None else row[0]
        return _replaced(table, "gene_index", lists, pa.list_(pa.int64()))

    return change


def _uneven(table: pa.Table, generator: np.random.Generator) -> pa.Table:
    lists = table["counts"].to_pylist()
    lists[0] = lists[0][:-1]
    return _replaced(table, "counts", lists, pa.list_(pa.uint16()))


def _text(name: str) -> Callable:
    def change(table: pa.Table, generator: np.random.Generator) -> pa.Table:
        return _replaced(table, name, ["text"] * table.num_rows, pa.string())

    return change


def _null(name: str) -> Callable:
    def change(table: pa.Table, generator: np.random.Generator) -> pa.Table:
        values = table[name].to_pylist()
        values[0] = None
        return _replaced(table, name, values, table.schema.field(name).type)

    return change


def _twice(path: Path, generator: np.random.Generator, victim: Path) -> str:
    manifest = json.loads((path / "manifest.json").read_text())
    shards = next(iter(manifest["datasets"].values()))["shards"]
    shards.append(shards[0])
    (path / "manifest.json").write_text(json.dumps(manifest))
    return "manifest.json"


def _elsewhere(path: Path, generator: np.random.Generator, victim: Path) -> str:
    manifest = json.loads((path / "manifest.json").read_text())
    shard = next(iter(manifest["datasets"].values()))["shards"][0]
    shard["file"] = pick(generator, ["../victim/secret.txt", str(victim / "secret.txt"), "data/../../x.parquet", ""])
    (path / "manifest.json").write_text(json.dumps(manifest))
    return "manifest.json"


def _linked(path: Path, generator: np.random.Generator, victim: Path) -> str:
    file = pick(generator, _shards(path))
    elsewhere = victim / "shard.parquet"
    elsewhere.write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(elsewhere)
    return file.name


_TABLES: list[tuple[str, Callable]] = [
    ("column missing", _without_column),
    ("rows missing", _without_rows),
    ("negative count", _counts(-1, pa.int64())),
    ("NaN count", _counts(float("nan"), pa.float64())),
    ("fractional count", _counts(1.5, pa.float64())),
    ("count beyond 32 bits", _counts(2**40, pa.int64())),
    ("count of zero", _counts(0, pa.int64())),
    ("null count", _counts(None, pa.int64())),
    ("gene beyond the table", _genes(10**6)),
    ("negative gene", _genes(-1)),
    ("gene twice", _genes(None)),
    ("lists of other lengths", _uneven),
    ("genes of text", _text("gene_index")),
    ("counts of text", _text("counts")),
    ("cell id of text", _text("cell_id")),
    ("null name", _null("cell_name")),
    ("null list", _null("counts")),
    ("null cell id", _null("cell_id")),
]

SHARDS = [
    *FILES,
    *JSON,
    *(Damage(name, _on_table(change, known=False)) for name, change in _TABLES),
    *(
        Damage(f"{name}, known", _on_table(change, known=True), alters=name in ("rows missing",))
        for name, change in _TABLES
    ),
    Damage("shard listed twice", _twice, refused=True),
    Damage("shard elsewhere", _elsewhere, refused=True),
    Damage("shard linked out", _linked, refused=True),
]
