"""A corpus as a `datasets.IterableDataset`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import require
from .window_reader import Batch, WindowReader
from .workers import end_with_main_process

if TYPE_CHECKING:
    from datasets import IterableDataset

    from .cell_corpus import CellCorpus


def cells_dataset(corpus: "CellCorpus", epoch: int) -> "IterableDataset":
    """See `CellCorpus.to_dataset`."""
    datasets = require("datasets", extra="train")
    # Public constructors take examples as Python lists, which the formatters then walk number by number: with numpy or
    # torch formatting that gives 60 cells a second.
    from datasets.iterable_dataset import ArrowExamplesIterable

    kinds = {"expression_values": "float32"}
    features = {
        name: datasets.List(datasets.Value(kinds.get(name, "int64")))
        for name in corpus.processor.feature_extractor.model_input_names
    }
    features.update({name: datasets.Value("int64") for name in ("cell_ids", *corpus.numbered)})
    features = datasets.Features(features)
    schedule = corpus.schedule(corpus.group_size)
    reader = WindowReader(corpus, schedule, epoch)
    arguments = {"windows": list(schedule.windows()), "reader": reader, "schema": features.arrow_schema}
    return datasets.IterableDataset(
        ArrowExamplesIterable(_tables, arguments), info=datasets.DatasetInfo(features=features)
    )


def _tables(windows: list[int], reader: WindowReader, schema: Any) -> Iterator[tuple[tuple[int, int], Any]]:
    """A table for each batch, and a key that no other has."""
    from torch.utils.data import get_worker_info

    if get_worker_info() is not None:
        end_with_main_process()
    for window in windows:
        for number, batch in enumerate(reader.batches(window)):
            yield (window, number), _table(batch, schema)


def _table(batch: Batch, schema: Any) -> Any:
    """The cells of a batch without padding, a row each."""
    import pyarrow as pa

    real = batch["attention_mask"].astype(bool)
    offsets = pa.array(np.concatenate([[0], real.sum(axis=1).cumsum()]), pa.int32())
    columns = {
        name: pa.array(values) if values.ndim == 1 else pa.ListArray.from_arrays(offsets, pa.array(values[real]))
        for name, values in batch.items()
    }
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)
