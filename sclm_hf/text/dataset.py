"""Conversations as a `datasets.IterableDataset`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch.utils.data import get_worker_info

from ..corpora.dataset import EpochTables
from ..corpora.pipeline.window_reader import WindowReader
from ..corpora.pipeline.workers import end_with_main_process
from ..errors import require

if TYPE_CHECKING:
    from .conversations import Conversations

datasets = require("datasets", extra="train")
pa = require("pyarrow", extra="train")

_MESSAGES = datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")})

FEATURES = datasets.Features(
    {
        "prompt": _MESSAGES,
        "completion": _MESSAGES,
        "cell_id": datasets.Value("int64"),
        "label": datasets.Value("string"),
        "task": datasets.Value("string"),
        "template": datasets.Value("string"),
    }
)
"""The columns of conversations."""


def conversations_dataset(conversations: "Conversations", epoch: int) -> datasets.IterableDataset:
    """See `Conversations.to_dataset`."""
    corpus = conversations.corpus
    schedule = corpus.schedule(corpus.group_size)
    reader = WindowReader(corpus, schedule, epoch)
    arguments = {"windows": list(schedule.windows()), "reader": reader, "conversations": conversations}
    return datasets.IterableDataset(EpochTables(_tables, arguments), info=datasets.DatasetInfo(features=FEATURES))


def _tables(
    windows: list[int], reader: WindowReader, conversations: "Conversations"
) -> Iterator[tuple[tuple[int, int], Any]]:
    """A table for each batch, and a key that no other has."""
    if get_worker_info() is not None:
        end_with_main_process()
    for window in windows:
        for number, batch in enumerate(reader.all_batches(window)):
            if rows := conversations.rows(batch, reader.epoch):
                yield (window, number), pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
