"""Strings of a .h5ad file, read straight from where HDF5 keeps them.

HDF5 hands over one string at a time: 4 ms for the names of 20,000 genes, which every file of a corpus repeats. On disk
an array of strings is a table of (length, heap, number in the heap), and a heap is a few kilobytes in which one string
follows the other; see "Global Heap" in https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html.
"""

import os
from typing import Any

import numpy as np
from numba import njit

from ...tokenization.encodings.stored import pread

_ENTRY = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])
_LARGEST_HEAP, _MOST_IN_HEAP = 2**20, 2**16
_HEADER = 16
_SIGNATURE = int.from_bytes(b"GCOL\x01", "little")


def joined_strings(dataset: Any) -> bytes | None:
    """The strings of a one-dimensional array, as `b"\\0".join` would put them together.

    Args:
        dataset: of anything that reads files; only those of h5py are read.

    Returns:
        None where they are not strings of any length that lie in the file as they are, or where something looks
        damaged: then h5py will know.
    """
    offset = _table_offset(dataset)
    if offset is None:
        return None
    descriptor = dataset.file.id.get_vfd_handle()
    table = np.frombuffer(os.pread(descriptor, dataset.size * _ENTRY.itemsize, offset), np.uint8)
    if table.size != dataset.size * _ENTRY.itemsize:
        return None
    entries = table.view(_ENTRY)
    lengths = entries["length"].astype(np.int64)
    if lengths.sum() > os.fstat(descriptor).st_size:
        return None
    text = np.zeros(lengths.sum() + lengths.size, np.uint8)
    heaps, numbers = entries["heap"].astype(np.int64), entries["number"].astype(np.int64)
    if not _gather(descriptor, lengths, heaps, numbers, np.empty(_LARGEST_HEAP, np.uint8), text):
        return None
    return text[:-1].tobytes()


def _table_offset(dataset: Any) -> int | None:
    """Where in the file the table of an array of strings begins; None where it does not lie there as it is."""
    of_h5py = type(dataset).__module__.partition(".")[0] == "h5py"
    if not of_h5py or len(dataset.shape) != 1 or not hasattr(os, "pread"):
        return None
    import h5py

    kind, file = h5py.check_string_dtype(dataset.dtype), dataset.file
    if kind is None or kind.length is not None or dataset.is_virtual or dataset.external or dataset.chunks is not None:
        return None
    sizes_of_addresses = file.id.get_create_plist().get_sizes()
    if file.driver != "sec2" or file.userblock_size or sizes_of_addresses != (8, 8):
        return None
    return dataset.id.get_offset()


@njit(cache=True, nogil=True)
def _number(heap, start, size):
    """A little-endian number of `size` bytes."""
    number = np.int64(0)
    for i in range(size):
        number |= np.int64(heap[start + i]) << (8 * i)
    return number


@njit(cache=True, nogil=True)
def _read_heap(file, address, heap, starts, sizes, owners):
    """Read a heap, and note where in it each string lies; False when there is none."""
    if pread(np.int32(file), heap.ctypes.data, _HEADER, address) != _HEADER:
        return False
    size = _number(heap, 8, 8)
    if _number(heap, 0, 5) != _SIGNATURE or not _HEADER <= size <= heap.size:
        return False
    if pread(np.int32(file), heap.ctypes.data, size, address) != size:
        return False
    at = _HEADER
    while at + _HEADER <= size:
        number, length = _number(heap, at, 2), _number(heap, at + 8, 8)
        # Number 0 is the room that is left at the end.
        if number == 0:
            break
        if not 0 <= length <= size - at - _HEADER:
            return False
        starts[number], sizes[number], owners[number] = at + _HEADER, length, address
        at += _HEADER + (length + 7) // 8 * 8
    return True


@njit(cache=True, nogil=True)
def _gather(file, lengths, addresses, numbers, heap, text):
    """Write the strings into `text`, each before a 0; False when one is not where the table says."""
    # What is known of a number, and of which heap: clearing them for each heap takes longer than reading it.
    starts, sizes = np.empty(_MOST_IN_HEAP, np.int64), np.empty(_MOST_IN_HEAP, np.int64)
    owners = np.full(_MOST_IN_HEAP, -1, np.int64)
    current, end = np.int64(-1), 0
    for i in range(lengths.size):
        n = lengths[i]
        if n:
            if addresses[i] != current:
                current = addresses[i]
                if current < 0 or not _read_heap(file, current, heap, starts, sizes, owners):
                    return False
            number = numbers[i]
            if not 0 < number < _MOST_IN_HEAP or owners[number] != current or sizes[number] != n:
                return False
            string = heap[starts[number] : starts[number] + n]
            if not string.all():
                return False
            text[end : end + n] = string
        end += n + 1
    return True
