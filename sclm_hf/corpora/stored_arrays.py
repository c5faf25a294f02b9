"""Arrays of HDF5 and zarr that anybody may have written: read only where what they claim to hold is there.

The shape of an array is a few bytes of its header. What was never written reads as zeros, and memory for it is taken
before anything is read; so an array is compared with what lies in its file first.
"""

import contextlib
import importlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorpusError

_METADATA = (".zgroup", ".zarray", ".zattrs", ".zmetadata", "zarr.json")

_MOST_UNPACKED, _MOST_RATIO = 2**30, 2000
"""Bytes that anything may unpack to, and how many times as many as are stored beyond that: twice what zlib can do."""

_LEAST_STRINGS, _MOST_STRINGS = 1024, 4096
"""Strings that are read at once: fewer of a large file, each of which may be as long as that."""


def is_array(element: Any) -> bool:
    """Whether an element is an array, not a group."""
    return getattr(element, "shape", None) is not None and hasattr(element, "dtype")


def is_of_h5py(element: Any) -> bool:
    """Whether an element lies in an HDF5 file."""
    return type(element).__module__.partition(".")[0] == "h5py"


def check_stored(array: Any, *, zeros_may_lack: bool = False) -> None:
    """Refuse an array of h5py or zarr of which not everything is stored, or that would unpack to far more.

    Args:
        array: the array; one in memory is sound.
        zeros_may_lack: whether chunks of zeros are left out, as zarr does.

    Raises:
        CorpusError: chunks are missing, it claims more than its file can hold, or cannot be unpacked here.
    """
    if isinstance(array, np.ndarray) or not array.size:
        return
    item, stored, n_chunks = _stored_in_hdf5(array) if is_of_h5py(array) else _stored_in_zarr(array)
    chunk = getattr(array, "shards", None) or array.chunks
    expected = 1 if chunk is None else math.prod(-(-n // of) for n, of in zip(array.shape, chunk, strict=True))
    if n_chunks < expected and not zeros_may_lack:
        raise CorpusError(f"{expected - n_chunks} of the {expected} chunks of `{array.name}` are missing")
    claimed = item * max(array.size if not zeros_may_lack else 0, math.prod(chunk or ()))
    if claimed > max(_MOST_UNPACKED, _MOST_RATIO * stored) or (chunk is None and array.size * item > stored):
        raise CorpusError(f"`{array.name}` claims to hold {claimed:,} bytes, of which {stored:,} are stored")


def chunks_lack(array: Any) -> bool:
    """Whether some chunks of an array of zarr are not there, which then read as zeros."""
    return type(array).__module__.partition(".")[0] == "zarr" and array.nchunks_initialized < array.nchunks


def read_whole(array: Any, length: int | None = None, *, zeros_may_lack: bool = False) -> np.ndarray:
    """All of a one-dimensional array.

    Args:
        array: of h5py or zarr, or in memory.
        length: how many entries it must have; None = any number.
        zeros_may_lack: as for [`check_stored`].

    Raises:
        CorpusError: it has another length or shape, or is not stored as a whole.
    """
    name = getattr(array, "name", "a column")
    if not is_array(array) or len(array.shape) != 1:
        raise CorpusError(f"`{name}` is no one-dimensional array")
    if length is not None and array.shape[0] != length:
        raise CorpusError(f"`{name}` has {array.shape[0]:,} values where {length:,} are expected")
    check_stored(array, zeros_may_lack=zeros_may_lack)
    if array.dtype.kind == "O" and not isinstance(array, np.ndarray):
        return _strings_of_hdf5(array)
    return array[:]


def read_whole_numbers(array: Any, length: int | None = None, *, zeros_may_lack: bool = False) -> np.ndarray:
    """All of a one-dimensional array of integers.

    Raises:
        CorpusError: as for [`read_whole`], or it holds something else.
    """
    if is_array(array) and array.dtype.kind not in "iu":
        raise CorpusError(f"`{array.name}` holds values of type {array.dtype}, expected whole numbers")
    return read_whole(array, length, zeros_may_lack=zeros_may_lack)


def _strings_of_hdf5(dataset: Any) -> np.ndarray:
    """(entries,) bytes; entries may share what they refer to, so a small file could stand for any number of them."""
    import h5py

    if h5py.check_string_dtype(dataset.dtype) is None:
        raise CorpusError(f"`{dataset.name}` holds values of type {dataset.dtype}, expected text or numbers")
    room = dataset.file.id.get_filesize()
    at_once = min(_MOST_STRINGS, max(_LEAST_STRINGS, _MOST_UNPACKED // max(room, 1)))
    values, length = np.empty(dataset.shape[0], object), 0
    for start in range(0, len(values), at_once):
        values[start : start + at_once] = part = dataset[start : start + at_once]
        length += sum(map(len, part))
        if length > room:
            raise CorpusError(f"`{dataset.name}` holds more text than there are bytes in the file")
    return values


def _stored_in_hdf5(dataset: Any) -> tuple[int, int, int]:
    """Bytes of an item, bytes stored and chunks stored; refuses what is packed by a filter that is not installed."""
    kind = dataset.id
    if dataset.chunks is None:
        # compact data lie in the header, and data that were never written nowhere
        stored = min(kind.get_storage_size(), dataset.file.id.get_filesize())
        return kind.get_type().get_size(), stored, int(stored > 0)
    _require_filters(dataset)
    return kind.get_type().get_size(), kind.get_storage_size(), kind.get_num_chunks()


def _require_filters(dataset: Any) -> None:
    from h5py import h5z

    properties = dataset.id.get_create_plist()
    for number in range(properties.get_nfilters()):
        code, _, _, name = properties.get_filter(number)
        if not h5z.filter_avail(code):
            # importing it makes its filters known
            with contextlib.suppress(ImportError):
                importlib.import_module("hdf5plugin")
        if not h5z.filter_avail(code):
            raise CorpusError(
                f"`{dataset.name}` is compressed with the HDF5 filter {code} ({os.fsdecode(name) or 'no name'}), "
                "which is not installed here: run `pip install hdf5plugin`, or write the file again with "
                '`compression="gzip"`'
            )


def _stored_in_zarr(array: Any) -> tuple[int, int, int]:
    sizes = [
        os.stat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(Path(array.store.root, array.path))
        for name in names
        if name not in _METADATA
    ]
    return array.dtype.itemsize, sum(sizes), len(sizes)
