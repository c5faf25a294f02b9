"""Batches of tensors, read ahead by worker processes."""

import atexit
import multiprocessing
import signal
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ...tokenization.encodings.cells import CellTokens
from ..order.plan import Schedule
from ..order.token_budget import TokenSchedule
from .narrow import Batch, NarrowBatch
from .window_reader import Window, WindowReader
from .workers import end_with_main_process

if TYPE_CHECKING:
    from ..contents import Contents

Collator = Callable[[dict[str, np.ndarray], int], Batch]

_N_BUFFERS = 3
"""Windows in the shared memory of a worker: one is cut into batches, one waits for that, one is being filled."""


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

    Each window is read and encoded once, whatever the number of workers. Workers write its tokens into shared memory
    that they fill again and again: three windows per worker, with 7 kB per cell of 1,700 expressed genes. This process
    cuts batches out of it, pads and masks them, so little is handed over, and nothing is copied on the way.

    Args:
        corpus: where the cells come from.
        schedule: the rank's batches.
        epoch: number of the epoch.
        collator: called in this process with (batch of arrays, epoch); returns a dict of tensors. By default the
            arrays become tensors.
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
        self._corpus, self._schedule, self._epoch = corpus, schedule, epoch
        self._collator, self._num_workers = collator, num_workers

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
        with closing(self._from_workers() if self._num_workers else self._read_here()) as windows:
            for window in windows:
                yield from self._batches(window, wide)

    def _batches(self, window: Window, wide: bool) -> Iterator[Batch]:
        """The batches of a window, collated."""
        collator = self._collator
        takes_narrow = not wide if collator is None else getattr(collator, "narrow", False)
        for arrays in window.padded(self._corpus.processor, narrow=takes_narrow):
            if arrays and collator is not None:
                batch = collator(arrays, self._epoch)
            else:
                batch = {name: torch.from_numpy(values) for name, values in arrays.items()}
            if takes_narrow:
                batch = NarrowBatch(batch).widened() if wide else NarrowBatch(batch)
            yield batch

    def _read_here(self) -> Iterator[Window]:
        reader = WindowReader(self._corpus, self._schedule, self._epoch)
        for number in self._schedule.windows():
            yield reader.window(number)

    def _from_workers(self) -> Iterator[Window]:
        loader = DataLoader(
            _SharedWindows(self._corpus, self._schedule, self._epoch),
            batch_size=None,
            num_workers=self._num_workers,
            prefetch_factor=_N_BUFFERS - 2,
            collate_fn=_unchanged,
            worker_init_fn=_begin_worker,
            # by default a loader draws from torch's own generator: dropout would not be the same after a resume
            generator=torch.Generator(),
        )
        # Torch maps a worker's memory anew for each window unless somebody here holds on to it
        mapped: deque[CellTokens] = deque(maxlen=_N_BUFFERS * self._num_workers)
        workers = iter(loader)
        try:
            for window in workers:
                mapped.append(window.tokens)
                yield window._replace(tokens=CellTokens(*map(np.asarray, window.tokens)))
        finally:
            # the traceback of an error holds on to the iterator, and Python would wait at exit for its workers, which
            # ignore SIGTERM, forever
            workers._shutdown_workers()
            # torch ends those that are still busy by SIGTERM
            for worker in workers._workers:
                worker.kill()


class _SharedWindows(IterableDataset):
    """The windows of a worker, whose tokens are tensors in shared memory."""

    def __init__(self, corpus: "Contents", schedule: Schedule | TokenSchedule, epoch: int) -> None:
        self._numbers = schedule.windows()
        self._reader = WindowReader(corpus, schedule, epoch, empty=_shared, n_buffers=_N_BUFFERS)

    def __iter__(self) -> Iterator[Window]:
        worker = get_worker_info()
        return self._reader.windows(self._numbers[worker.id :: worker.num_workers])


def _shared(size: int, dtype: type) -> torch.Tensor:
    """As `numpy.empty`, in memory that other processes can map."""
    empty = torch.from_numpy(np.empty(0, dtype))
    return empty.new_empty(size).share_memory_() if size else empty


def _remembered(stream: Iterator[Batch]) -> Iterator[Batch]:
    _streams.add(stream)
    return stream


def _begin_worker(worker: int) -> None:
    """Ctrl-C and SIGTERM often go to all processes of a run; the main one decides when its workers end."""
    end_with_main_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _unchanged(window: Window) -> Window:
    return window
