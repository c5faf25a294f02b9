"""Cells through an engine: each function hands a [`CellEmbedder`] to one, in the form that it takes."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import CorpusError, require
from .cell_embedder import COUNTS, EMBEDDING, GENE_INDEX, NAME, CellEmbedder

if TYPE_CHECKING:
    from pandas import DataFrame

_LISTS = (GENE_INDEX, COUNTS)


def embed_frame(frame: "DataFrame", embedder: CellEmbedder) -> "DataFrame":
    """Embed the cells of a data frame: columns `cell_name` and `embedding`, an array each, with the same index."""
    there = [name for name in embedder.columns if name in frame]
    result = embedder({name: frame[name].to_numpy() for name in there})
    columns = {NAME: result[NAME], EMBEDDING: list(result[EMBEDDING])}
    return require("pandas", extra="anndata").DataFrame(columns, index=frame.index)


def embed_frames(frames: "Iterable[DataFrame]", embedder: CellEmbedder) -> "Iterator[DataFrame]":
    """Embed the cells of data frames, one after the other."""
    return (embed_frame(frame, embedder) for frame in frames)


def embed_dask(cells: Any, embedder: CellEmbedder) -> Any:
    """Embed the cells of a `dask.dataframe.DataFrame`, partition by partition.

    Raises:
        CorpusError: Dask made text of the lists of the cells.
    """
    pandas = require("pandas", extra="anndata")
    if any(isinstance(cells.dtypes[name], pandas.StringDtype) for name in _LISTS if name in cells.columns):
        raise CorpusError(
            "Dask made text of the lists in `gene_index` and `counts`: say "
            "`dask.config.set({'dataframe.convert-string': False})` before the cells are read."
        )
    meta = pandas.DataFrame({NAME: pandas.Series(dtype=object), EMBEDDING: pandas.Series(dtype=object)})
    return cells.map_partitions(embed_frame, embedder, meta=meta)


def embed_spark(cells: Any, embedder: CellEmbedder) -> Any:
    """Embed the cells of a `pyspark.sql.DataFrame`: columns `cell_name` and `embedding`, an array of floats."""
    columns = [name for name in embedder.columns if name in cells.columns]
    schema = f"{NAME} string, {EMBEDDING} array<float>"
    return cells.select(*columns).mapInPandas(partial(embed_frames, embedder=embedder), schema=schema)


def embed_ray(cells: Any, embedder: CellEmbedder, **options: Any) -> Any:
    """Embed the cells of a `ray.data.Dataset`; each actor opens the model once.

    Args:
        cells: the data set.
        embedder: what embeds them.
        **options: of `map_batches`, for example `concurrency` or `num_gpus`. Actors keep their processors until the
            end: with as many as Ray has processors none is left to read the cells, and Ray waits.
    """
    return cells.map_batches(CellEmbedder, fn_constructor_kwargs=embedder.arguments, batch_format="numpy", **options)


def embed_dataset(cells: Any, embedder: CellEmbedder, *, batch_size: int = 1000) -> Any:
    """Embed the cells of a `datasets.Dataset` or `IterableDataset`.

    Args:
        cells: the data set.
        embedder: what embeds them.
        batch_size: cells that are read at a time.
    """
    # the cache of `map` knows the name of a model, not its weights
    options = {"load_from_cache_file": False} if hasattr(cells, "cache_files") else {}
    kept = {"remove_columns": cells.column_names} if cells.column_names else {}
    return cells.with_format("numpy").map(embedder, batched=True, batch_size=batch_size, **kept, **options)
