"""A corpus as a `datasets.IterableDataset`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import require
from .window_reader import WindowReader

if TYPE_CHECKING:
    from datasets import IterableDataset

    from .cell_corpus import CellCorpus


def cells_dataset(corpus: "CellCorpus", epoch: int) -> "IterableDataset":
    """See `CellCorpus.to_dataset`."""
    datasets = require("datasets", extra="train")
    schedule = corpus.schedule(corpus.group_size)
    reader = WindowReader(corpus, schedule, epoch)
    first = next(corpus.batches(1, epoch=epoch))
    kinds = {np.dtype(kind): datasets.Value(kind) for kind in ("int64", "float32")}
    features = {
        name: kinds[values.dtype] if values.ndim == 1 else datasets.List(kinds[values.dtype])
        for name, values in first.items()
    }
    return datasets.IterableDataset.from_generator(
        _cells,
        features=datasets.Features(features),
        gen_kwargs={"windows": list(schedule.windows()), "reader": reader},
    )


def _cells(windows: list[int], reader: WindowReader) -> Iterator[dict[str, Any]]:
    for window in windows:
        for batch in reader.batches(window):
            lengths = batch["attention_mask"].sum(axis=1)
            for cell, length in enumerate(lengths):
                # A cell by itself has no padding.
                yield {
                    name: values[cell] if values.ndim == 1 else values[cell, :length] for name, values in batch.items()
                }
