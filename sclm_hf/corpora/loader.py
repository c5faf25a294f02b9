"""Batches of tensors, read ahead by worker processes."""

import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .plan import Schedule
from .token_budget import TokenSchedule
from .window_reader import WindowReader

if TYPE_CHECKING:
    from .cell_corpus import CellCorpus

Batch = dict[str, torch.Tensor]
Collator = Callable[[dict[str, np.ndarray], int], Batch]
_Packed = tuple[Batch, list[dict[str, torch.Size]]]


class CellLoader:
    """The batches of one rank and one epoch, as torch tensors, in an order that workers do not change.

    A worker makes all batches of a window: the window is read once, whatever the number of workers. Each worker is one
    window ahead of its use, so about `num_workers + 1` windows of padded batches are in (shared) memory.

    Args:
        corpus: where the cells come from.
        schedule: the rank's batches.
        epoch: number of the epoch.
        collator: called with (batch of arrays, epoch) where the batch is made; returns a dict of tensors. By default
            the arrays become tensors.
        num_workers: processes that read and encode; 0 = this one.
    """

    def __init__(
        self,
        corpus: "CellCorpus",
        schedule: Schedule | TokenSchedule,
        epoch: int,
        *,
        collator: Collator | None = None,
        num_workers: int = 0,
    ) -> None:
        self._schedule, self._num_workers = schedule, num_workers
        self._windows = _Windows(WindowReader(corpus, schedule, epoch), epoch, collator or _as_tensors)

    def __len__(self) -> int:
        """Number of batches.

        Raises:
            TypeError: it shows only when the cells have been read, because the tokens of a batch are limited.
        """
        return self._schedule.n_batches

    def __iter__(self) -> Iterator[Batch]:
        numbers = self._schedule.windows()
        if not self._num_workers:
            for number in numbers:
                yield from self._windows.batches(number)
            return
        packed = DataLoader(
            self._windows,
            batch_size=None,
            sampler=numbers,
            num_workers=self._num_workers,
            prefetch_factor=1,
            collate_fn=_unchanged,
            worker_init_fn=_leave_signals_to_main,
            # By default a loader draws from torch's own generator: dropout would not be the same after a resume.
            generator=torch.Generator(),
        )
        for window in packed:
            yield from _unpacked(*window)


class _Windows(Dataset):
    """Window number -> its batches, packed."""

    def __init__(self, reader: WindowReader, epoch: int, collator: Collator) -> None:
        self._reader, self._epoch, self._collator = reader, epoch, collator

    def batches(self, number: int) -> Iterator[Batch]:
        return (self._collator(batch, self._epoch) if batch else {} for batch in self._reader.batches(number))

    def __getitem__(self, number: int) -> _Packed:
        return _packed(list(self.batches(number)))


def _as_tensors(batch: dict[str, np.ndarray], epoch: int) -> Batch:
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def _leave_signals_to_main(worker: int) -> None:
    """Ctrl-C and SIGTERM often go to all processes of a run; the main one decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _unchanged(packed: _Packed) -> _Packed:
    return packed


def _packed(batches: list[Batch]) -> _Packed:
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
