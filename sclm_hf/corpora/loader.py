"""Batches of tensors, read ahead by worker processes."""

import atexit
import os
import signal
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from .packing import Packed, flat_sizes, unpack
from .plan import Schedule
from .shared_memory import Parcel, SharedBuffers, received
from .token_budget import TokenSchedule
from .window_reader import WindowReader

if TYPE_CHECKING:
    from .cell_corpus import CellCorpus

Batch = dict[str, torch.Tensor]
Collator = Callable[[dict[str, np.ndarray], int], Batch]


# Streams that somebody may still hold.
_streams: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _end_workers() -> None:
    """End the workers of streams that were left in the middle; at exit Python would wait for them for ever."""
    for stream in list(_streams):
        stream.close()


class CellLoader:
    """The batches of one rank and one epoch, as torch tensors, in an order that workers do not change.

    A worker makes all batches of a window: the window is read once, whatever the number of workers. Each worker is one
    window ahead of its use and keeps the shared memory of two, so `2 * num_workers` windows of padded batches are in
    shared memory and one in this process. While a worker encodes a window, a thread of its reads the next one.

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
        self._windows = _Windows(WindowReader(corpus, schedule, epoch), epoch, collator)

    def __len__(self) -> int:
        """Number of batches.

        Raises:
            TypeError: it shows only when the cells have been read, because the tokens of a batch are limited.
        """
        return self._schedule.n_batches

    def __iter__(self) -> Iterator[Batch]:
        stream = self._stream()
        _streams.add(stream)
        return stream

    def _stream(self) -> Iterator[Batch]:
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
            worker_init_fn=partial(_begin_worker, main=os.getpid()),
            # By default a loader draws from torch's own generator: dropout would not be the same after a resume.
            generator=torch.Generator(),
        )
        # Torch maps a worker's memory anew for each window unless somebody here holds on to it.
        mapped: deque[torch.Tensor] = deque(maxlen=2 * self._num_workers)
        workers = iter(packed)
        try:
            for parcel in workers:
                mapped.append(parcel.buffer)
                yield from unpack(received(parcel))
        finally:
            # The traceback of an error holds on to the iterator, and Python would wait at exit for its workers, which
            # ignore SIGTERM, for ever.
            workers._shutdown_workers()


class _Windows(Dataset):
    """Window number -> its batches, packed into shared memory."""

    def __init__(self, reader: WindowReader, epoch: int, collator: Collator | None) -> None:
        self._reader, self._epoch, self._collator = reader, epoch, collator
        self._shared = SharedBuffers()

    def batches(self, number: int) -> Iterator[Batch]:
        """The batches of a window as the collator makes them, one by one."""
        return (self._collated(batch) for batch in self._reader.batches(number))

    def __getitem__(self, number: int) -> Parcel:
        following = number + get_worker_info().num_workers
        if self._collator is None:
            shapes = self._reader.packed(number, following, self._shared.arrays).shapes
            return self._shared.parcel(shapes)
        batches = [self._collated(batch) for batch in unpack(self._reader.packed(number, following))]
        shapes = [{name: tuple(values.shape) for name, values in batch.items()} for batch in batches]
        types = {name: values.dtype for batch in batches for name, values in batch.items()}
        flat = self._shared.tensors({name: (types[name], size) for name, size in flat_sizes(shapes).items()})
        for batch, place in zip(batches, unpack(Packed(flat, shapes)), strict=True):
            for name, values in batch.items():
                place[name].copy_(values)
        return self._shared.parcel(shapes)

    def _collated(self, batch: dict[str, np.ndarray]) -> Batch:
        if self._collator is None or not batch:
            return {name: torch.from_numpy(values) for name, values in batch.items()}
        return self._collator(batch, self._epoch)


def _begin_worker(worker: int, main: int) -> None:
    """Ctrl-C and SIGTERM often go to all processes of a run; the main one decides when its workers end."""
    if os.getppid() != main:
        # Killed while its workers started: torch would take the process that adopts them for the main one, for ever.
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _unchanged(parcel: Parcel) -> Parcel:
    return parcel
