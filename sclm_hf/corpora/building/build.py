"""Files of cells become a folder of Parquet shards: what `sclm-hf corpus build` runs."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, vstack

from ..._version import __version__
from ...errors import ConfigurationError, CorpusError, require
from ...files import sole_writer, write_text, written_whole
from ...logging import progress_bar
from ...sources.cell_source import CellSource
from ...sources.gene_maps import sample_rows
from ...sources.opening import name_paths, open_source
from ...sources.shards.manifest import (
    CARD_FILE,
    GENES_FILE,
    MANIFEST_FILE,
    Manifest,
    Shard,
    ShardedDataset,
    check_dataset_name,
    read_manifest,
)
from ...sources.shards.schema import FIXED_COLUMNS, ROW_GROUP_SIZE, ShardFacts, write_shard
from ...sources.soundness import to_counts
from ...sources.survey import look_at
from ..filters import filter_rows
from .dataset_card import render_card

_STATE_FILE = "build.json"
_CELLS_A_READ = 2048
_MOST_LABELS = 1000


def build_corpus(
    paths: str | Path | Sequence[str | Path] | Mapping[str, str | Path],
    folder: str | Path,
    *,
    obs_columns: Sequence[str] = (),
    layer: str | None = None,
    where: Mapping[str, Any] | None = None,
    shard_size: int = 16384,
    title: str | None = None,
    license: str = "unknown",
    organism: str = "unknown",
    description: str = "",
) -> Manifest:
    """Write the raw counts of files as Parquet shards with a manifest and a dataset card.

    Everything that can be refused is refused before the first shard is written. Each shard is written beside its place
    and moved there when it is complete; a build that was stopped goes on after the last complete shard when the same
    call is made again, and ends with the same bytes (with the same version of pyarrow) as one that was not. The
    manifest comes last: a folder that has one is complete.

    Cells without any count are left out, and counted in the manifest. Entries are brought into the order of genes, and
    stored zeros dropped.

    Args:
        paths: as for `CellCorpus`; the names of the sources become the names of the data sets.
        folder: where to write; new, empty, or what an earlier call with the same inputs and settings left.
        obs_columns: columns of `obs` to keep, as text; every input must have them.
        layer: as for `CellCorpus`.
        where: as for `CellCorpus`.
        shard_size: most cells of a shard, rounded up to whole row groups of 32.
        title: title of the card; the folder's name by default.
        license: licence of the data, an identifier that the Hub knows.
        organism: species of the cells.
        description: what the card says first.

    Returns:
        The manifest, as `read_manifest(folder)` would.

    Raises:
        ConfigurationError: a setting is impossible, or `folder` holds something else or is written by another build.
        CorpusError: an input cannot be used, or nothing can be written; the message names the file.
    """
    require("pyarrow.parquet", extra="corpora")
    folder = Path(folder)
    if shard_size < 1:
        raise ConfigurationError(f"`shard_size` must be at least 1, got {shard_size}.")
    card = {"title": title or folder.resolve().name, "license": license, "organism": organism}
    with sole_writer(folder):
        build = _Build(folder, name_paths(paths), list(dict.fromkeys(obs_columns)), layer, where, shard_size)
        manifest = build.manifest(**card, description=description)
        return _finished(folder, manifest) or build.run(manifest)


def _finished(folder: Path, manifest: Manifest) -> Manifest | None:
    """The manifest of a folder that is complete; refuses one that holds something else."""
    if (folder / MANIFEST_FILE).exists():
        finished = read_manifest(folder)
        if finished.build_id != manifest.build_id:
            raise ConfigurationError(
                f"`{folder}` holds shards made from other inputs or settings: remove it, or name another folder."
            )
        (folder / _STATE_FILE).unlink(missing_ok=True)
        return finished
    return None


class _Build:
    """One call of [`build_corpus`]: its inputs, opened and checked."""

    def __init__(
        self,
        folder: Path,
        named: Mapping[str, Path],
        obs_columns: list[str],
        layer: str | None,
        where: Mapping[str, Any] | None,
        shard_size: int,
    ) -> None:
        reserved = sorted(set(obs_columns) & set(FIXED_COLUMNS))
        if reserved:
            raise ConfigurationError(f"`obs_columns` holds {reserved}, names of columns that every shard has.")
        self.folder, self.obs_columns = folder, obs_columns
        self.shard_size = -(-shard_size // ROW_GROUP_SIZE) * ROW_GROUP_SIZE
        self.named = {check_dataset_name(name): named[name] for name in sorted(named)}
        self.sources = [open_source(name, path, layer=layer) for name, path in self.named.items()]
        rows, self.dropped = filter_rows(self.sources, [None] * len(self.sources), where=where)
        self.rows = [
            np.arange(source.n_cells) if used is None else used
            for source, used in zip(self.sources, rows, strict=True)
        ]
        for source, used in zip(self.sources, self.rows, strict=True):
            _check_source(source, used, obs_columns)
        self.settings = {
            "sclm_hf": __version__,
            "pyarrow": require("pyarrow", extra="corpora").__version__,
            "inputs": {name: _stamp(path) for name, path in self.named.items()},
            "rows": [hashlib.sha256(used.tobytes()).hexdigest() for used in self.rows],
            "obs_columns": obs_columns,
            "layer": layer,
            "shard_size": self.shard_size,
            "cell_ids": "of names",
        }

    def manifest(self, **card: str) -> Manifest:
        """The manifest, with data sets that have no shards yet."""
        datasets = {
            source.name: ShardedDataset(
                n_genes=source.n_genes,
                source=self.named[source.name].name,
                n_filtered=sum(self.dropped[source.name].values()),
            )
            for source in self.sources
        }
        settings = {**self.settings, "organism": card["organism"]}
        return Manifest(
            **card,
            obs_columns=self.obs_columns,
            shard_size=self.shard_size,
            row_group_size=ROW_GROUP_SIZE,
            sclm_hf=__version__,
            build_id=hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16],
            datasets=datasets,
        )

    def run(self, manifest: Manifest) -> Manifest:
        """Write the shards that are missing, then everything else."""
        self._resume(manifest)
        with progress_bar(total=sum(map(len, self.rows)), desc="Writing shards", unit=" cells") as bar:
            for source, rows in zip(self.sources, self.rows, strict=True):
                dataset = manifest.datasets[source.name]
                facts = self._facts(source, manifest)
                obs = {name: source.column(name) for name in self.obs_columns}
                names = source.obs_names()
                for begin in range(0, len(rows), self.shard_size):
                    part = rows[begin : begin + self.shard_size]
                    if begin // self.shard_size >= len(dataset.shards):
                        dataset.shards.append(self._write(source, part, names, obs, facts, dataset))
                        self._save(manifest, _STATE_FILE)
                    bar.update(len(part))
                source.close()
        return self._finish(manifest)

    def _resume(self, manifest: Manifest) -> None:
        """Take over the shards that an earlier call has completed."""
        state = self.folder / _STATE_FILE
        if not state.exists():
            there = [path.name for path in self.folder.iterdir()] if self.folder.exists() else []
            # a build that was killed at its very beginning leaves the state half written
            if set(there) - {f".{_STATE_FILE}.tmp"}:
                raise ConfigurationError(f"`{self.folder}` is not empty: name a new folder.")
            self.folder.mkdir(parents=True, exist_ok=True)
            self._save(manifest, _STATE_FILE)
            return
        try:
            earlier = Manifest.read(state)
        except CorpusError as error:
            raise CorpusError(f"`{state}` is damaged: remove `{self.folder}` and build again: {error}.") from error
        if earlier.build_id != manifest.build_id:
            raise ConfigurationError(
                f"`{self.folder}` holds an unfinished build from other inputs, settings or versions: remove it, "
                "or name another folder."
            )
        for name, dataset in earlier.datasets.items():
            for shard in dataset.shards:
                file = self.folder / shard.file
                if not file.is_file() or hash_file(file) != shard.sha256:
                    break
                manifest.datasets[name].shards.append(shard)

    def _facts(self, source: CellSource, manifest: Manifest) -> ShardFacts:
        names, ensembl_ids = source.genes()
        return ShardFacts(
            dataset=source.name,
            organism=manifest.organism,
            source=manifest.datasets[source.name].source,
            gene_names=list(map(str, names)),
            ensembl_ids=None if ensembl_ids is None else list(map(str, ensembl_ids)),
            sclm_hf=__version__,
        )

    def _write(self, source, rows, names, obs, facts: ShardFacts, dataset: ShardedDataset) -> Shard:
        pieces = [rows[begin : begin + _CELLS_A_READ] for begin in range(0, len(rows), _CELLS_A_READ)]
        counts = csr_matrix(vstack([to_counts(source.read(piece), source, piece) for piece in pieces], format="csr"))
        full = np.diff(counts.indptr) > 0
        rows = rows[full]
        texts = {
            name: np.array([*column.categories, None], object)[column.codes[rows]] for name, column in obs.items()
        }
        file = f"data/{source.name}/{len(dataset.shards):05d}.parquet"
        with written_whole(self.folder / file, CorpusError) as path:
            obs_values = {name: values.tolist() for name, values in texts.items()}
            kept = counts if full.all() else counts[full]
            largest = write_shard(path, kept, names[rows], obs_values, facts)
        path = self.folder / file
        return Shard(file, len(rows), path.stat().st_size, hash_file(path), int((~full).sum()), largest)

    def _finish(self, manifest: Manifest) -> Manifest:
        empty = [name for name, dataset in manifest.datasets.items() if not dataset.n_cells]
        if empty:
            raise CorpusError(f"Nothing is left of {empty}: none of the cells that `where` leaves has a count.")
        for dataset in manifest.datasets.values():
            dataset.labels = _labels([self.folder / shard.file for shard in dataset.shards], self.obs_columns)
        with written_whole(self.folder / GENES_FILE, CorpusError) as path:
            _write_genes(path, [self._facts(source, manifest) for source in self.sources])
        card = render_card(manifest, (self.folder / GENES_FILE).stat().st_size)
        write_text(self.folder / CARD_FILE, card, CorpusError)
        self._save(manifest, MANIFEST_FILE)
        (self.folder / _STATE_FILE).unlink()
        for source in self.sources:
            source.close()
        return manifest

    def _save(self, manifest: Manifest, name: str) -> None:
        write_text(self.folder / name, manifest.to_json(), CorpusError)


def hash_file(path: Path) -> str:
    """SHA-256 of the bytes of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def doubled(values: Sequence[str]) -> list[str]:
    """The values that occur more than once."""
    return [value for value, count in Counter(values).items() if count > 1]


def _check_source(source: CellSource, rows: np.ndarray, obs_columns: list[str]) -> None:
    """Refuse what would make shards that nobody can use."""
    lacking = [name for name in obs_columns if name not in source.column_names()]
    if lacking:
        raise CorpusError(f"`{source.location}` has no obs columns {lacking}; it has {sorted(source.column_names())}.")
    names, ensembl_ids = source.genes()
    genes = (
        list(map(str, names))
        if ensembl_ids is None
        else [f"{a} ({b})" for a, b in zip(names, ensembl_ids, strict=True)]
    )
    for what, values, remedy in (
        ("gene", genes, "adata.var_names_make_unique()"),
        ("cell", source.obs_names().tolist(), "adata.obs_names_make_unique()"),
    ):
        twice = doubled(values)
        if twice:
            raise CorpusError(
                f"`{source.location}` has more than one {what} of the same name, such as {twice[:3]} ({len(twice):,} "
                f"names in all): rename them (`{remedy}`) or leave them out, and write the file again."
            )
    if not len(rows):
        raise CorpusError(f"`{source.location}`: `where` leaves none of its {source.n_cells} cells.")
    sample = sample_rows(source, rows)
    look_at(source, [sample], "counts", within=f" (judged by {len(sample)} of its cells)")
    source.close()


def _stamp(path: Path) -> list[Any]:
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]


def _labels(files: list[Path], columns: list[str]) -> dict[str, dict[str, int]]:
    """Column -> value -> number of cells, for columns with at most 1,000 values."""
    from pyarrow import parquet

    counts: dict[str, Counter] = {name: Counter() for name in columns}
    for file in files:
        table = parquet.ParquetFile(file).read(columns=columns, use_threads=False)
        for name in columns:
            values, numbers = table[name].drop_null().value_counts().flatten()
            counts[name].update(dict(zip(values.to_pylist(), numbers.to_pylist(), strict=True)))
    return {name: dict(sorted(found.items())) for name, found in counts.items() if len(found) <= _MOST_LABELS}


def _write_genes(path: Path, facts: list[ShardFacts]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    tables = [
        pa.table(
            {
                "dataset": pa.array([one.dataset] * len(one.gene_names), pa.string()),
                "gene_index": pa.array(np.arange(len(one.gene_names), dtype=np.int32)),
                "gene_name": pa.array(one.gene_names, pa.string()),
                "ensembl_id": pa.array(one.ensembl_ids or [None] * len(one.gene_names), pa.string()),
            }
        )
        for one in facts
    ]
    parquet.write_table(pa.concat_tables(tables), path, compression="zstd", store_schema=False)
