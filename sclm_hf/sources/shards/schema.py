"""The Parquet schema of our shards, and conversion of cells to and from it.

One row per cell: `cell_name` (its name in `obs`), `dataset`, `cell_id` (what its random draws are keyed by:
`hash_names` of its name, uint64 stored as int64), `gene_index` (ascending places in the data set's gene table) and
`counts` (whole numbers above 0, one per gene), then columns of `obs` as text. The gene table and where the cells come
from stand in the metadata of the file under `sclm_hf`, as JSON.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from ...errors import CorpusError, require
from ...files import require_regular_file
from ...tokenization.encodings.keys import hash_names
from ..cell_source import csr_from_arrays
from ..reading_errors import reason

if TYPE_CHECKING:
    import pyarrow as pa

    from .manifest import Shard

ROW_GROUP_SIZE = 32
"""Cells that have to be decoded together; a block of a shuffled epoch, by default."""

FIXED_COLUMNS = ("cell_name", "dataset", "cell_id", "gene_index", "counts")
_METADATA_KEY = "sclm_hf"
_MOST_BYTES_A_GROUP = 2**30


@dataclass(frozen=True)
class ShardFacts:
    """What the metadata of a shard say.

    Attributes:
        dataset: name of the data set.
        organism, source: where its cells come from.
        gene_names: (n_genes,) names of its genes.
        ensembl_ids: (n_genes,) their Ensembl ids, or None.
        sclm_hf: version of the package that wrote it.
    """

    dataset: str
    organism: str
    source: str
    gene_names: list[str]
    ensembl_ids: list[str] | None
    sclm_hf: str


def shard_schema(n_genes: int, largest_count: int, obs_columns: list[str]) -> "pa.Schema":
    """The schema of a shard, in the smallest integers that hold its genes and counts."""
    import pyarrow as pa

    columns = {
        "cell_name": pa.string(),
        "dataset": pa.string(),
        "cell_id": pa.int64(),
        "gene_index": pa.list_(pa.from_numpy_dtype(integer_type(n_genes - 1))),
        "counts": pa.list_(pa.from_numpy_dtype(integer_type(largest_count))),
    }
    columns.update(dict.fromkeys(obs_columns, pa.string()))
    return pa.schema(columns)


def integer_type(largest: int) -> np.dtype:
    """uint16 or uint32, whichever holds `largest`.

    Raises:
        CorpusError: neither does.
    """
    if largest > np.iinfo(np.uint32).max:
        raise CorpusError(f"the number {largest} does not fit into 32 bits: these are no counts")
    return np.dtype(np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32)


def write_shard(path: Path, counts: csr_matrix, names: np.ndarray, obs: dict[str, list], facts: ShardFacts) -> int:
    """Write cells as a shard; the same cells give the same bytes with the same version of pyarrow.

    Args:
        path: the file.
        counts: (cells, genes) with ascending indices and whole numbers above 0.
        names: (cells,) names of the cells.
        obs: column -> (cells,) values as text or None.
        facts: where the cells come from.

    Returns:
        The largest count.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    largest = int(counts.data.max(initial=0))
    schema = shard_schema(counts.shape[1], largest, list(obs))
    offsets = pa.array(counts.indptr, pa.int32())
    columns = {
        "cell_name": pa.array(names.tolist(), pa.string()),
        "dataset": pa.array([facts.dataset] * counts.shape[0], pa.string()),
        "cell_id": pa.array(hash_names(names).view(np.int64)),
        **{name: pa.array(values, pa.string()) for name, values in obs.items()},
    }
    for name, values in (("gene_index", counts.indices), ("counts", counts.data)):
        kind = schema.field(name).type
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(values.astype(kind.value_type.to_pandas_dtype())))
    table = pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
    # differences of ascending indices and a dictionary of the few different counts: less than half the bytes of the
    # default, and no slower to read. Statistics of such columns help no query
    layout = {
        "compression": "zstd",
        "use_dictionary": ["dataset", "counts.list.element", *obs],
        "column_encoding": {"gene_index.list.element": "DELTA_BINARY_PACKED"},
        "write_statistics": False,
        "store_schema": False,
    }
    with pq.ParquetWriter(path, schema, **layout) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_SIZE)
        # in the footer, and not in the schema: Arrow would store that a second time
        writer.add_key_value_metadata({_METADATA_KEY: json.dumps(asdict(facts), ensure_ascii=False)})
    return largest


def open_shard(path: Path) -> Any:
    """A shard as a `pyarrow.parquet.ParquetFile`.

    Raises:
        CorpusError: it cannot be read as Parquet.
        MissingDependencyError: pyarrow is not installed.
    """
    parquet = require("pyarrow.parquet", extra="corpora")
    require_regular_file(path, CorpusError)
    try:
        return parquet.ParquetFile(path, memory_map=True)
    except OSError as error:
        raise CorpusError(f"`{path}` {reason(error, 'Parquet file')}") from error
    except ValueError as error:
        raise CorpusError(f"`{path}` cannot be read as Parquet: {error}") from error


def check_shard(file: Any, shard: "Shard", n_genes: int, obs_columns: list[str], row_group_size: int) -> None:
    """Compare the header of an open shard with what the manifest says.

    Args:
        file: the open shard.
        shard: what the manifest says of it.
        n_genes: genes of its data set.
        obs_columns: columns of `obs` that all shards have.
        row_group_size: cells of a row group.

    Raises:
        CorpusError: types, names of columns, number of cells or row groups differ.
    """
    schema = shard_schema(n_genes, shard.largest_count, obs_columns)
    must_be("schema", file.schema_arrow.remove_metadata(), schema)
    must_be("number of cells", file.metadata.num_rows, shard.n_cells)
    must_be("number of row groups", file.num_row_groups, -(-shard.n_cells // row_group_size))
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        n_cells = min(row_group_size, shard.n_cells - number * row_group_size)
        must_be(f"number of cells of row group {number}", group.num_rows, n_cells)
        if group.total_byte_size > _MOST_BYTES_A_GROUP:
            raise CorpusError(f"its row group {number} claims to hold {group.total_byte_size:,} bytes")


def must_be(what: str, found: Any, expected: Any) -> None:
    """Refuse what is not as expected.

    Raises:
        CorpusError: it is not.
    """
    if found != expected:
        raise CorpusError(f"its {what} is {found!s:.300}, expected {expected!s:.300}")


def read_facts(file: Any) -> ShardFacts:
    """What the metadata of an open shard say.

    Raises:
        CorpusError: it has no such metadata.
    """
    try:
        facts = ShardFacts(**json.loads(file.metadata.metadata[_METADATA_KEY.encode()]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CorpusError(f"its metadata hold no gene table of `sclm_hf`: {error}") from error
    ids = facts.gene_names if facts.ensembl_ids is None else facts.ensembl_ids
    for names in (facts.gene_names, ids):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise CorpusError("the gene table in its metadata holds something else than text")
    if len(ids) != len(facts.gene_names):
        raise CorpusError(f"the gene table in its metadata has {len(facts.gene_names)} names and {len(ids)} ids")
    return facts


def read_texts(path: Path, file: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a column of text in compact form: a dictionary can stand for a long text in every row of a small shard.

    Args:
        path: where the shard is.
        file: the open shard.
        name: name of the column.

    Returns:
        (rows,) int64 number of each row's text, -1 where it has none, and (texts,) these in order of appearance.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, metadata=file.metadata, memory_map=True, read_dictionary=[name]) as opened:
        column = opened.read(columns=[name], use_threads=False)[name]
    if not len(column):
        return np.empty(0, np.int64), np.empty(0, object)
    encoded = column.unify_dictionaries().combine_chunks()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    used, first = np.unique(codes, return_index=True)
    used = used[np.argsort(first)]
    used = used[used >= 0]
    number = np.full(len(encoded.dictionary) + 1, -1)
    number[used] = np.arange(len(used))
    return number[codes], np.array([*encoded.dictionary.take(used).to_pylist(), None], object)[:-1]


def read_ids(file: Any) -> np.ndarray:
    """(rows,) uint64, the ids of the cells of an open shard.

    Raises:
        CorpusError: a cell has none.
    """
    ids = file.read(columns=["cell_id"], use_threads=False)["cell_id"]
    if ids.null_count:
        raise CorpusError(f"{ids.null_count:,} of its cells have no `cell_id`")
    return ids.to_numpy().view(np.uint64)


def read_counts(file: Any, groups: list[int], n_genes: int) -> csr_matrix:
    """(rows, genes) counts of some row groups of an open shard; indices are not checked.

    Raises:
        CorpusError: a group claims more counts than its cells have genes; further as for [`to_matrix`].
    """
    for number in groups:
        group = file.metadata.row_group(number)
        claimed = max(group.column(place).num_values for place in range(group.num_columns))
        if claimed > group.num_rows * max(n_genes, 1):
            raise CorpusError(f"its row group {number} claims to hold {claimed:,} counts")
    # Arrow's threads do not survive the fork of a worker, and a worker has one core
    table = file.read_row_groups(groups, columns=["gene_index", "counts"], use_threads=False)
    return to_matrix(table, n_genes)


def to_matrix(table: "pa.Table", n_genes: int) -> csr_matrix:
    """(rows, genes) counts of the rows of a shard; indices are not checked.

    Raises:
        CorpusError: the lists of a row differ in length, or values are missing.
    """
    lists = [table[name].combine_chunks() for name in ("gene_index", "counts")]
    parts = [(one.offsets.to_numpy(), one.values) for one in lists]
    (offsets, indices), (other_offsets, counts) = parts
    holes = sum(one.null_count + one.values.null_count for one in lists)
    if holes or not np.array_equal(np.diff(offsets), np.diff(other_offsets)):
        raise CorpusError("`gene_index` and `counts` of a row differ in length, or values are missing")
    # scipy's routines know no 16-bit indices
    indices = indices.to_numpy().astype(np.int32)[offsets[0] : offsets[-1]]
    counts = counts.to_numpy()[other_offsets[0] : other_offsets[-1]]
    return csr_from_arrays(counts, indices, offsets - offsets[0], n_genes)
