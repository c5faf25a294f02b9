"""Batches of tensors, read ahead by worker processes."""

import atexit
import multiprocessing
import signal
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..order.plan import Schedule
from ..order.token_budget import TokenSchedule
from .narrow import Batch, NarrowBatch
from .shared_memory import N_BUFFERS, Parcel, SharedBatches
from .window_reader import Window, WindowReader
from .workers import end_with_main_process

if TYPE_CHECKING:
    from ..contents import Contents

Collator = Callable[[dict[str, np.ndarray], int], Batch]


# streams that somebody may still hold
_streams: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _end_workers() -> None:
    """End the workers of streams that were left in the middle; at exit Python would wait for them forever."""
    for stream in list(_streams):
        stream.close()
    # a signal that comes while workers begin leaves some that no stream knows of: Python ends them by SIGTERM, which
    # they ignore, and waits for them, while they wait for it
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
            process.join()


class CellLoader:
    """The batches of one rank and one epoch, as torch tensors, in an order that workers do not change.

    Batches are padded, masked and handed over in narrow types, and widened in this process; with neither worker nor
    collator they are padded in wide types at once. A worker makes all batches of a window, so that the window is read
    once whatever the number of workers. What it hands over lies in shared memory: two windows per worker, and for
    1,700 expressed genes about 15 kB per cell.

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
        corpus: "Contents",
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
            TypeError: it is known only after reading, because the tokens of a batch are limited.
        """
        return self._schedule.n_batches

    def __iter__(self) -> Iterator[Batch]:
        return _remembered(self._stream(wide=True))

    def narrow(self) -> Iterator[Batch]:
        """The batches in the types in which they were made, each a [`NarrowBatch`], to be widened on any device.

        Those of a collator that does not take narrow types are as it made them.
        """
        return _remembered(self._stream(wide=False))

    def _stream(self, wide: bool) -> Iterator[Batch]:
        if not self._num_workers:
            # without a collator, nothing is done with narrow types before they are widened
            at_once = wide and self._windows.collator is None
            for number in self._schedule.windows():
                for batch in self._windows.batches(self._windows.reader.window(number), wide=at_once):
                    yield batch if at_once else self._received(batch, wide=wide, copy=False)
            return
        packed = DataLoader(
            self._windows,
            batch_size=None,
            num_workers=self._num_workers,
            prefetch_factor=N_BUFFERS - 1,
            collate_fn=_unchanged,
            worker_init_fn=_begin_worker,
            # by default a loader draws from torch's own generator: dropout would not be the same after a resume
            generator=torch.Generator(),
        )
        # Torch maps a worker's memory anew for each window unless somebody here holds on to it
        mapped: deque[torch.Tensor] = deque(maxlen=N_BUFFERS * self._num_workers)
        workers = iter(packed)
        try:
            for parcel in workers:
                mapped.append(parcel.buffer)
                for batch in parcel.opened():
                    yield self._received(batch, wide=wide, copy=True)
        finally:
            # the traceback of an error holds on to the iterator, and Python would wait at exit for its workers, which
            # ignore SIGTERM, forever
            workers._shutdown_workers()
            # torch ends those that are still busy by SIGTERM
            for worker in workers._workers:
                worker.kill()

    def _received(self, batch: Batch, *, wide: bool, copy: bool) -> Batch:
        if not self._windows.narrow:
            return {name: tensor.clone() for name, tensor in batch.items()} if copy else batch
        if wide:
            return NarrowBatch(batch).widened(copy=copy)
        return NarrowBatch({name: tensor.clone() if copy else tensor for name, tensor in batch.items()})


class _Windows(IterableDataset):
    """The batches of windows; in a worker, the parcels of its windows."""

    def __init__(
        self, corpus: "Contents", schedule: Schedule | TokenSchedule, epoch: int, collator: Collator | None
    ) -> None:
        self._processor, self._schedule, self._epoch, self.collator = corpus.processor, schedule, epoch, collator
        self.narrow = collator is None or getattr(collator, "narrow", False)
        self.reader, self._shared = WindowReader(corpus, schedule, epoch), SharedBatches()

    def __iter__(self) -> Iterator[Parcel]:
        worker = get_worker_info()
        numbers = self._schedule.windows()[worker.id :: worker.num_workers]
        for window in self.reader.windows(numbers):
            yield self._shared.parcel(self.batches(window), len(window.batches))

    def batches(self, window: Window, *, wide: bool = False) -> Iterator[Batch]:
        """The batches of a window as the collator makes them, one by one; in `wide` types if asked."""
        for batch in window.padded(self._processor, narrow=self.narrow and not wide):
            if batch and self.collator is not None:
                yield self.collator(batch, self._epoch)
            else:
                yield {name: torch.from_numpy(values) for name, values in batch.items()}


def _remembered(stream: Iterator[Batch]) -> Iterator[Batch]:
    _streams.add(stream)
    return stream


def _begin_worker(worker: int) -> None:
    """Ctrl-C and SIGTERM often go to all processes of a run; the main one decides when its workers end."""
    end_with_main_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _unchanged(parcel: Parcel) -> Parcel:
    return parcel
