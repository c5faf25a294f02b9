"""Batches of tensors, read ahead by worker processes."""

import atexit
import signal
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .plan import Schedule
from .shared_memory import N_BATCH_BUFFERS, BatchParcel, SharedArrays, SharedBatches, WindowParcel
from .token_budget import TokenSchedule
from .token_buffer import N_BUFFERS
from .window_reader import WindowReader
from .workers import end_with_main_process

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

    A worker reads and encodes a whole window: the window is read once, whatever the number of workers. What it hands
    over lies in shared memory: encoded cells without padding, which this process pads batch by batch, of three windows
    a worker; or what the collator made of them, which is larger, of two.

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
        self._windows = _Windows(corpus, schedule, epoch, collator)

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
        n_buffers = self._windows.n_buffers
        packed = DataLoader(
            self._windows,
            batch_size=None,
            sampler=numbers,
            num_workers=self._num_workers,
            prefetch_factor=n_buffers - 1,
            collate_fn=_unchanged,
            worker_init_fn=_begin_worker,
            # By default a loader draws from torch's own generator: dropout would not be the same after a resume.
            generator=torch.Generator(),
        )
        # Torch maps a worker's memory anew for each window unless somebody here holds on to it.
        mapped: deque[tuple[torch.Tensor, ...]] = deque(maxlen=n_buffers * self._num_workers)
        workers = iter(packed)
        try:
            for parcel in workers:
                mapped.append(parcel.buffers)
                yield from self._windows.opened(parcel)
        finally:
            # The traceback of an error holds on to the iterator, and Python would wait at exit for its workers, which
            # ignore SIGTERM, for ever.
            workers._shutdown_workers()


class _Windows(Dataset):
    """Window number -> what a worker hands over of it."""

    def __init__(
        self, corpus: "CellCorpus", schedule: Schedule | TokenSchedule, epoch: int, collator: Collator | None
    ) -> None:
        self._processor, self._epoch, self._collator = corpus.processor, epoch, collator
        self._reader = WindowReader(corpus, schedule, epoch)
        self._shared_arrays, self._shared_batches = SharedArrays(), SharedBatches()

    @property
    def n_buffers(self) -> int:
        """How many windows lie in a worker's shared memory."""
        return N_BUFFERS if self._collator is None else N_BATCH_BUFFERS

    def batches(self, number: int) -> Iterator[Batch]:
        """The batches of a window as the collator makes them, one by one."""
        return (self._collated(batch) for batch in self._reader.batches(number))

    def __getitem__(self, number: int) -> WindowParcel | BatchParcel:
        if self._collator is not None:
            return self._shared_batches.parcel(list(self.batches(number)))
        window = self._reader.window(number, self._shared_arrays.allocate)
        return WindowParcel.wrap(window, self._shared_arrays)

    def opened(self, parcel: WindowParcel | BatchParcel) -> Iterator[Batch]:
        """The batches of a window that a worker handed over."""
        if isinstance(parcel, BatchParcel):
            return parcel.opened()
        return (_tensors(batch) for batch in parcel.opened().padded(self._processor))

    def _collated(self, batch: dict[str, np.ndarray]) -> Batch:
        return _tensors(batch) if self._collator is None or not batch else self._collator(batch, self._epoch)


def _tensors(batch: dict[str, np.ndarray]) -> Batch:
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def _begin_worker(worker: int) -> None:
    """Ctrl-C and SIGTERM often go to all processes of a run; the main one decides when its workers end."""
    end_with_main_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _unchanged(parcel: WindowParcel | BatchParcel) -> WindowParcel | BatchParcel:
    return parcel
