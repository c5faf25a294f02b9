"""Reads slices of one-dimensional HDF5 datasets directly from the file when they are stored uncompressed.

The environment variable `SCLM_PLAIN_IO=1` turns this off, and with it the kernels that read and encode such files in
one go (`tokenization/encodings/stored.py`): every file is then read through h5py. The results are the same; `h5ad`
files of counts stream at less than half the speed.
"""

import os
from typing import Any

import numpy as np

from ...tokenization.encodings.stored import StoredEntries
from ..stored_arrays import is_of_h5py

_KERNEL_TYPES = [np.dtype(kind) for kind in (np.float32, np.float64, np.int32, np.int64)]

# finding out where all chunks lie costs about as much as some reads through h5py: not worth it for a file among many
_READS_BEFORE_LOOKING = 10


def memory_type(stored: np.dtype) -> np.dtype:
    """The type of stored numbers in memory: scipy and compiled code know neither big-endian ones nor float16."""
    return np.dtype(np.float32) if stored.kind == "f" and stored.itemsize == 2 else stored.newbyteorder("=")


class RangeReader:
    """Reads ranges of a dataset, directly from the file when it is stored uncompressed.

    h5py copies chunk by chunk through a cache, which takes twice as long as the system call.

    Args:
        dataset: one-dimensional; of h5py or anything that is sliced.

    Attributes:
        shape: (entries,).
        dtype: the type to read into.
    """

    def __init__(self, dataset: Any) -> None:
        self.shape, self.dtype = dataset.shape, memory_type(dataset.dtype)
        self._dataset, self._plain, self._n_reads = dataset, None, 0
        readable = is_of_h5py(dataset) and hasattr(os, "preadv") and dataset.dtype == self.dtype
        self._looks = readable and os.environ.get("SCLM_PLAIN_IO") != "1"

    def read_into(self, out: np.ndarray, start: int) -> None:
        """Fill `out` with the entries from `start` on."""
        self._n_reads += 1
        if self._looks and self._n_reads > _READS_BEFORE_LOOKING:
            chunks = _plain_chunks(self._dataset)
            self._looks, self._plain = False, chunks and PlainRanges(self._dataset, *chunks)
        if self._plain is None:
            out[:] = self._dataset[start : start + out.size]
        else:
            self._plain.read_into(out, start)

    @property
    def stored(self) -> StoredEntries | None:
        """Where the entries lie in the file; None where that is not known, or not in one of the kernels' types."""
        if self._plain is None or self.dtype not in _KERNEL_TYPES:
            return None
        return StoredEntries(self._plain.offsets, self._plain.chunk_size, self.dtype)

    @property
    def file(self) -> int:
        """Descriptor of the open file that `stored` is about."""
        return self._plain.file

    def all(self) -> np.ndarray:
        """All entries."""
        return self._dataset[:].astype(self.dtype, copy=False)


class PlainRanges:
    """A dataset whose chunks lie uncompressed in the file.

    Args:
        dataset: the dataset; its file must stay open.
        offsets: (chunks,) where in the file each chunk begins, in bytes.
        size: entries of a chunk.
    """

    def __init__(self, dataset: Any, offsets: np.ndarray, size: int) -> None:
        self.dtype = dataset.dtype
        self.file = dataset.file.id.get_vfd_handle()
        self.offsets, self.chunk_size = offsets, size
        follows = np.diff(offsets) == size * self.dtype.itemsize
        # for each chunk, the one after the last that follows it in the file without a gap
        self._run_ends = np.append(np.flatnonzero(~follows) + 1, len(offsets))

    def read_into(self, out: np.ndarray, start: int) -> None:
        """Fill `out` with the entries from `start` on.

        Raises:
            OSError: the file ends before them.
        """
        done, itemsize = 0, self.dtype.itemsize
        while done < out.size:
            chunk, within = divmod(start + done, self.chunk_size)
            run_end = int(self._run_ends[np.searchsorted(self._run_ends, chunk, "right")])
            n = min(out.size - done, (run_end - chunk) * self.chunk_size - within)
            at = int(self.offsets[chunk]) + within * itemsize
            n_read = os.preadv(self.file, [out[done : done + n]], at)
            # one call reads 2 GB at most; what is left of a broken entry is read again
            if n_read < itemsize:
                raise OSError("the file ends before the data that its header promises")
            done += n_read // itemsize


def _plain_chunks(dataset: Any) -> tuple[np.ndarray, int] | None:
    """Offsets of the chunks of a dataset and their size in entries; None where these are not its bytes."""
    file, properties = dataset.file, dataset.id.get_create_plist()
    stored_as_is = dataset.id.get_type().equal(_native_type(dataset)) and not properties.get_nfilters()
    if not stored_as_is or dataset.size == 0 or file.driver != "sec2" or file.userblock_size:
        return None
    if dataset.is_virtual or dataset.external:
        return None
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        return None if offset is None else (np.array([offset]), dataset.size)
    size, chunks = dataset.chunks[0], []
    dataset.id.chunk_iter(chunks.append)
    offsets = np.full(-(-dataset.size // size), -1, np.int64)
    numbers = np.array([chunk.chunk_offset[0] for chunk in chunks], np.int64) // size
    inside = numbers < offsets.size
    offsets[numbers[inside]] = np.array([chunk.byte_offset for chunk in chunks], np.int64)[inside]
    return (offsets, size) if (offsets >= 0).all() else None


def _native_type(dataset: Any) -> Any:
    from h5py import h5t

    return h5t.py_create(dataset.dtype.newbyteorder("="))
