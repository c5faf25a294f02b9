"""For all tests: fresh memory is poisoned, and Ctrl-C interrupts.

Who reads what nobody wrote gets NaN or -1, not the zeros that a new process often has.
"""

import functools
import gc
import signal

import numba.extending
import numpy as np
import pytest
import torch


def _poisoned(make):
    """`make` (`np.empty` and its like) with every byte set: NaN, -1, or the largest of unsigned numbers."""

    @functools.wraps(make)
    def poisoned(*args, **kwargs):
        array = make(*args, **kwargs)
        if array.dtype.kind in "fiuc" and array.size:
            array.fill(np.nan if array.dtype.kind in "fc" else -1 if array.dtype.kind == "i" else ~array.dtype.type(0))
        return array

    return poisoned


_EMPTY = np.empty
_POISONED = _poisoned(np.empty)


@numba.extending.overload(_POISONED)
def _in_kernels(shape, dtype=np.float64):
    """Compiled code keeps the memory as it comes: what is compiled here is cached for the package itself."""
    return lambda shape, dtype=np.float64: _EMPTY(shape, dtype)


@pytest.fixture(scope="session", autouse=True)
def poisoned_memory():
    """numpy's and torch's fresh memory, for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "empty", _POISONED)
        patch.setattr(np, "empty_like", _poisoned(np.empty_like))
        # torch then fills fresh memory with NaN or the largest number by itself
        torch.use_deterministic_algorithms(True, warn_only=True)
        yield
        torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """Ctrl-C as in the foreground: a shell lets its background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def poisoned_loans(monkeypatch):
    """Memory that earlier batches gave back."""
    from sclm_hf.tokenization.encodings import cells, scratch

    lent, empty = scratch.lent, scratch.Scratch.empty

    def poisoned_loan(size):
        memory = lent(size)
        memory.fill(255)
        return memory

    def poisoned_scratch(self, name, size, dtype):
        array = empty(self, name, size, dtype)
        array.view(np.uint8).fill(255)
        return array

    for module in (cells, scratch):
        monkeypatch.setattr(module, "lent", poisoned_loan)
    monkeypatch.setattr(scratch.Scratch, "empty", poisoned_scratch)


def pytest_collection_finish() -> None:
    """Leave what was imported to no garbage collection, of which a training run makes one and any test may."""
    gc.collect()
    gc.freeze()
