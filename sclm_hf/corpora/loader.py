"""Batches of tensors, read ahead by worker processes."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from .cell_corpus import CellCorpus

Batch = dict[str, torch.Tensor]


class CellLoader:
    """The batches of one rank and one epoch, as torch tensors, in an order that workers do not change.

    A worker makes all batches of a window: the window is read once, whatever the number of workers. Each worker is one
    window ahead of its use, so about `num_workers + 1` windows of padded batches are in memory.

    Args:
        corpus: where the cells come from.
        batch_size: cells of a batch.
        collator: called with (batch of arrays, epoch) where the batch is made; returns a dict of tensors. By default
            the arrays become tensors.
        num_workers: processes that read and encode; 0 = this one.
        epoch: number of the epoch.
        **kwargs: `start`, `rank`, `world_size`, `drop_last` as for `CellCorpus.batches`.
    """

    def __init__(
        self,
        corpus: "CellCorpus",
        batch_size: int,
        *,
        collator: Callable[[dict[str, np.ndarray], int], Batch] | None = None,
        num_workers: int = 0,
        epoch: int = 0,
        **kwargs: Any,
    ) -> None:
        self.schedule = corpus.schedule(batch_size, **kwargs)
        self.num_workers = num_workers
        self._windows = _Windows(corpus, self.schedule, epoch, collator)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.schedule.numbers)

    def __iter__(self) -> Iterator[Batch]:
        numbers = [number for number in self.schedule.windows() if self.schedule.cells(number)]
        if not self.num_workers:
            for number in numbers:
                yield from self._windows.batches(number)
            return
        windows = DataLoader(
            self._windows,
            batch_size=None,
            sampler=numbers,
            num_workers=self.num_workers,
            prefetch_factor=1,
            collate_fn=_as_is,
        )
        for packed in windows:
            yield from _unpacked(*packed)


class _Windows(Dataset):
    """Window number -> its batches, packed."""

    def __init__(self, corpus: "CellCorpus", schedule: Any, epoch: int, collator: Callable | None) -> None:
        self._corpus, self._schedule, self._epoch, self._collator = corpus, schedule, epoch, collator
        self._plan = corpus.plan(schedule, epoch)

    def batches(self, number: int) -> Iterator[Batch]:
        for batch in self._corpus.window_batches(self._plan, self._schedule, number, self._epoch):
            if self._collator is None:
                yield {name: torch.from_numpy(values) for name, values in batch.items()}
            else:
                yield self._collator(batch, self._epoch)

    def __getitem__(self, number: int) -> tuple[Batch, list[dict[str, torch.Size]]]:
        return _packed(list(self.batches(number)))


def _as_is(packed: Any) -> Any:
    return packed


def _packed(batches: list[Batch]) -> tuple[Batch, list[dict[str, torch.Size]]]:
    """All batches of a window in one tensor a name.

    A tensor that goes to another process takes a file descriptor; those of all batches would exceed the usual limit.
    """
    names = dict.fromkeys(name for batch in batches for name in batch)
    flat = {name: torch.cat([batch[name].reshape(-1) for batch in batches if name in batch]) for name in names}
    return flat, [{name: values.shape for name, values in batch.items()} for batch in batches]


def _unpacked(flat: Batch, shapes: list[dict[str, torch.Size]]) -> Iterator[Batch]:
    """The batches of a window, as views."""
    places = dict.fromkeys(flat, 0)
    for batch in shapes:
        views = {}
        for name, shape in batch.items():
            end = places[name] + shape.numel()
            views[name] = flat[name][places[name] : end].view(shape)
            places[name] = end
        yield views
