"""A corpus as a `datasets.IterableDataset`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import get_worker_info

from ..errors import require
from .order.plan import Schedule
from .pipeline.window_reader import Batch, WindowReader
from .pipeline.workers import end_with_main_process

if TYPE_CHECKING:
    from .contents import Contents

datasets = require("datasets", extra="train")

# public constructors take examples as Python lists, which the formatters then walk number by number: with numpy or
# torch formatting that gives 60 cells per second
ArrowExamplesIterable = datasets.iterable_dataset.ArrowExamplesIterable


class EpochTables(ArrowExamplesIterable):
    """Windows as shards, in the order of the corpus's epoch, which `IterableDataset.set_epoch` counts on."""

    def shuffle_data_sources(self, generator: np.random.Generator) -> "EpochTables":
        """The same: the corpus shuffles, anew in each epoch."""
        return self

    def shift_rngs(self, value: int) -> ArrowExamplesIterable:
        """The tables `value` epochs later, which nothing shifts any more."""
        reader = self.kwargs["reader"].later(value)
        return ArrowExamplesIterable(self.generate_tables_fn, {**self.kwargs, "reader": reader})

    def shard_data_sources(self, num_shards: int, index: int, contiguous: bool = True) -> ArrowExamplesIterable:
        shard = super().shard_data_sources(num_shards, index, contiguous)
        # in a worker, what comes next is a shift by the number of the worker
        return shard if get_worker_info() else EpochTables(self.generate_tables_fn, shard.kwargs)


def cells_dataset(corpus: "Contents", schedule: Schedule, epoch: int) -> datasets.IterableDataset:
    """See `CellCorpus.to_dataset`."""
    features = _features(corpus)
    reader = WindowReader(corpus, schedule, epoch)
    arguments = {"windows": list(schedule.windows()), "reader": reader, "schema": features.arrow_schema}
    return datasets.IterableDataset(EpochTables(_tables, arguments), info=datasets.DatasetInfo(features=features))


def _features(corpus: "Contents") -> datasets.Features:
    kinds = {"expression_values": "float32"}
    features = {
        name: datasets.List(datasets.Value(kinds.get(name, "int64")))
        for name in corpus.processor.feature_extractor.model_input_names
    }
    names = {"labels": corpus.label_names, "batch_labels": corpus.batch_names}
    names |= {f"labels_{column}": values for column, values in corpus.task_names.items()}
    classes = {field: datasets.ClassLabel(names=names[field]) for field in corpus.numbered}
    return datasets.Features(features | {"cell_ids": datasets.Value("int64")} | classes)


def _tables(windows: list[int], reader: WindowReader, schema: Any) -> Iterator[tuple[tuple[int, int], Any]]:
    """A table for each batch, and a key that no other has."""
    from torch.utils.data import get_worker_info

    if get_worker_info() is not None:
        end_with_main_process()
    for window in windows:
        for number, batch in enumerate(reader.all_batches(window)):
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
