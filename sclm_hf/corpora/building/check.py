"""A folder of shards, verified: what `sclm-hf corpus check` runs."""

from collections import Counter
from pathlib import Path

import numpy as np

from ...errors import CorpusError, require
from ...logging import progress_bar
from ...sources.anndata.zarr_folder import is_zarr
from ...sources.containment import refuse_entry_out
from ...sources.shards.manifest import CARD_FILE, GENES_FILE, Manifest, Shard, ShardedDataset, read_manifest
from ...sources.shards.schema import (
    ShardFacts,
    check_shard,
    must_be,
    open_shard,
    read_counts,
    read_facts,
    read_ids,
    read_texts,
)
from ...sources.soundness import first_unsound
from ...tokenization.encodings.keys import hash_names
from .build import doubled, hash_file


def check_corpus(folder: str | Path) -> list[str]:
    """Verify everything that a folder of shards promises.

    That is: the manifest; of every shard its size, checksum, schema and gene table, that indices ascend within the
    gene table and counts are above 0, that the data set is that of its place, and cell ids are those of the cells'
    names; that no cell name and no gene occurs twice in a data set; the table of genes; and that there is nothing
    else.

    Returns:
        One message for everything that is broken, with the file's name; empty when all is well.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """
    require("pyarrow.parquet", extra="corpora")
    folder = Path(folder)
    if is_zarr(folder):
        return [
            f"`{folder}` is a zarr folder, which promises nothing that could be verified here: `sclm-hf corpus info` "
            "reads it as it is, and `sclm-hf corpus build` makes shards of it that can be checked."
        ]
    try:
        manifest = read_manifest(folder)
    except CorpusError as error:
        return [str(error)]
    problems: list[str] = []
    facts: list[ShardFacts] = []
    with progress_bar(total=manifest.n_cells, desc="Checking", unit=" cells") as bar:
        for name, dataset in manifest.datasets.items():
            try:
                found = _check_dataset(folder, name, dataset, manifest, problems, bar)
                facts += [found] if found else []
            except CorpusError as error:
                # nothing is read of what lies elsewhere
                problems.append(str(error))
    problems += _check_others(folder, manifest, facts)
    return problems


def _check_dataset(folder, name: str, dataset: ShardedDataset, manifest: Manifest, problems, bar) -> ShardFacts | None:
    facts: ShardFacts | None = None
    names: Counter[str] = Counter()
    for shard in dataset.shards:
        refuse_entry_out(folder / shard.file, folder)
        try:
            _check_bytes(folder / shard.file, shard)
        except CorpusError as error:
            problems.append(str(error))
        try:
            found, cell_names = _check_content(folder / shard.file, shard, name, dataset, manifest)
            if facts is not None and found != facts:
                raise CorpusError("its gene table or origin is not that of the shards before it")
            facts = facts or found
            names.update(cell_names)
        except Exception as error:
            # pyarrow raises almost anything for a damaged file
            text = str(error)
            problems.append(text if shard.file in text else f"`{folder / shard.file}`: {text}.")
        bar.update(shard.n_cells)
    twice = [cell for cell, number in names.items() if number > 1]
    if twice:
        problems.append(
            f"Data set `{name}` has more than one cell of the same name, such as {twice[:3]} ({len(twice):,} in all)."
        )
    return facts


def _check_bytes(path: Path, shard: Shard) -> None:
    if not path.is_file():
        raise CorpusError(f"`{path}` is missing.")
    size = path.stat().st_size
    if size != shard.n_bytes:
        raise CorpusError(f"`{path}` has {size:,} bytes, the manifest says {shard.n_bytes:,}.")
    if hash_file(path) != shard.sha256:
        raise CorpusError(f"`{path}` does not have the checksum that the manifest says: its content was changed.")


def _check_content(
    path: Path, shard: Shard, name: str, dataset: ShardedDataset, manifest: Manifest
) -> tuple[ShardFacts, list[str]]:
    """What a shard's metadata say and the names of its cells; raises the first thing that is wrong with it."""
    if not path.is_file():
        raise CorpusError(f"`{path}` is missing.")
    with open_shard(path) as file:
        facts = read_facts(file)
        must_be("data set", facts.dataset, name)
        must_be("number of genes", len(facts.gene_names), dataset.n_genes)
        pairs = list(zip(facts.gene_names, facts.ensembl_ids or facts.gene_names, strict=True))
        if len(set(pairs)) < len(pairs):
            raise CorpusError(f"its gene table holds {doubled(pairs)[:3]} more than once")
        check_shard(file, shard, dataset.n_genes, manifest.obs_columns, manifest.row_group_size)
        codes, texts = read_texts(path, file, "dataset")
        if texts.tolist() not in ([], [name]) or codes.any():
            raise CorpusError(f"not all of its cells are of the data set `{name}`")
        for column in manifest.obs_columns:
            read_texts(path, file, column)
        codes, texts = read_texts(path, file, "cell_name")
        # names that repeat are named below
        if len(texts) == len(codes) and not np.array_equal(read_ids(file), hash_names(texts[codes])):
            raise CorpusError("its cell ids are not those of the names of its cells")
        matrix = read_counts(file, list(range(file.num_row_groups)), dataset.n_genes)
    bad = first_unsound(matrix)
    if bad >= 0:
        raise CorpusError(f"row {bad}: gene indices do not ascend, or leave the {dataset.n_genes} genes")
    if not matrix.data.all():
        raise CorpusError("it holds counts of 0")
    must_be("largest count", int(matrix.data.max(initial=0)), shard.largest_count)
    return facts, np.array([*texts, None], object)[codes].tolist()


def _check_others(folder: Path, manifest: Manifest, facts: list[ShardFacts]) -> list[str]:
    """The table of genes, the card, and files that belong to nothing."""
    problems = []
    try:
        refuse_entry_out(folder / GENES_FILE, folder)
        with open_shard(folder / GENES_FILE) as file:
            table = file.read(use_threads=False).to_pydict()
        for one in facts:
            rows = [number for number, name in enumerate(table["dataset"]) if name == one.dataset]
            names = [table["gene_name"][row] for row in rows]
            ids = [table["ensembl_id"][row] for row in rows]
            if names != one.gene_names or ids != (one.ensembl_ids or [None] * len(names)):
                problems.append(f"`{folder / GENES_FILE}`: the genes of `{one.dataset}` are not those of its shards.")
    except Exception as error:
        # as above
        problems.append(f"`{folder / GENES_FILE}`: {error}")
    if not (folder / CARD_FILE).is_file():
        problems.append(f"`{folder / CARD_FILE}` is missing.")
    known = {shard.file for dataset in manifest.datasets.values() for shard in dataset.shards}
    there = sorted(path.relative_to(folder).as_posix() for path in (folder / "data").rglob("*") if path.is_file())
    problems += [f"`{folder / file}` is not in the manifest." for file in there if file not in known]
    return problems
