"""Arrays of HDF5 and zarr that anybody may have written: read only where what they claim to hold is there.

The shape of an array is a few bytes of its header. What was never written reads as zeros, and memory for it is taken
before anything is read; so an array is compared with what lies in its file first.
"""

import contextlib
import importlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import CorpusError
from .zarr_shards import MISSING, read_shard_index, refuse_odd_shards

_METADATA = (".zgroup", ".zarray", ".zattrs", ".zmetadata", "zarr.json")

_MOST_UNPACKED, _MOST_RATIO = 2**30, 2000
"""Bytes that anything may unpack to, and how many times as many as are stored beyond that: twice what zlib can do."""

_MOST_OF_A_CHUNK = 8
"""How many times its own size a chunk may be stored as or unpack to: filters may have widened its entries."""

_ZSTD, _ZSTD_SKIPPED, _ZSTD_HEADER_BYTES, _ZSTD_BLOCK = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18", 18, 2**17

_LEAST_STRINGS, _MOST_STRINGS = 1024, 4096
"""Strings that are read at once: fewer of a large file, each of which may be as long as that."""

_MOST_ENTRIES = 2**16
"""Other entries that are read at once, where not all are needed."""


class _Stored(NamedTuple):
    """Bytes of an item; number of stored chunks, bytes of all of them, and of the largest one that is compressed."""

    item: int
    n_chunks: int
    n_bytes: int
    largest: int = 0


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
    found = _stored_in_hdf5(array) if is_of_h5py(array) else _stored_in_zarr(array)
    chunk = array.chunks
    expected = 1 if chunk is None else math.prod(-(-n // of) for n, of in zip(array.shape, chunk, strict=True))
    if found.n_chunks < expected and not zeros_may_lack:
        raise CorpusError(f"{expected - found.n_chunks} of the {expected} chunks of `{array.name}` are missing")
    claimed = found.item * max(array.size if not zeros_may_lack else 0, math.prod(chunk or ()))
    too_much = claimed > max(_MOST_UNPACKED, _MOST_RATIO * found.n_bytes)
    if too_much or (chunk is None and array.size * found.item > found.n_bytes):
        raise CorpusError(f"`{array.name}` claims to hold {claimed:,} bytes, of which {found.n_bytes:,} are stored")
    if chunk is not None and found.largest > _most_of_a_chunk(array, found.item):
        raise CorpusError(
            f"a chunk of `{array.name}` is stored as {found.largest:,} bytes and holds "
            f"{found.item * math.prod(chunk):,}: it would unpack to more"
        )


def _most_of_a_chunk(array: Any, item: int) -> int:
    """Bytes that a chunk may be stored as, or unpack to."""
    # the length of text is not in the type
    least = _MOST_UNPACKED if array.dtype.kind in "OT" else 2**16
    return max(least, _MOST_OF_A_CHUNK * item * math.prod(array.chunks))


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
    _check_flat(array, length, zeros_may_lack)
    if _is_text_of_hdf5(array):
        return np.concatenate([np.empty(0, object), *_strings_of_hdf5(array)])
    return array[:]


def read_in_parts(array: Any) -> Iterator[np.ndarray]:
    """All of a one-dimensional array, some thousand entries after the other; arguments and errors are those of
    [`read_whole`]."""
    _check_flat(array, None, False)
    if _is_text_of_hdf5(array):
        yield from _strings_of_hdf5(array)
        return
    # a chunk is unpacked anew for each part of it that is read
    chunk = (getattr(array, "chunks", None) or (1,))[0]
    at_once = -(-_MOST_ENTRIES // chunk) * chunk
    for start in range(0, array.shape[0], at_once):
        yield array[start : start + at_once]


def _check_flat(array: Any, length: int | None, zeros_may_lack: bool) -> None:
    name = getattr(array, "name", "a column")
    if not is_array(array) or len(array.shape) != 1:
        raise CorpusError(f"`{name}` is no one-dimensional array")
    if length is not None and array.shape[0] != length:
        raise CorpusError(f"`{name}` has {array.shape[0]:,} values where {length:,} are expected")
    check_stored(array, zeros_may_lack=zeros_may_lack)


def _is_text_of_hdf5(array: Any) -> bool:
    return array.dtype.kind == "O" and not isinstance(array, np.ndarray)


def read_whole_numbers(array: Any, length: int | None = None, *, zeros_may_lack: bool = False) -> np.ndarray:
    """All of a one-dimensional array of integers.

    Raises:
        CorpusError: as for [`read_whole`], or it holds something else.
    """
    if is_array(array) and array.dtype.kind not in "iu":
        raise CorpusError(f"`{array.name}` holds values of type {array.dtype}, expected whole numbers")
    return read_whole(array, length, zeros_may_lack=zeros_may_lack)


def _strings_of_hdf5(dataset: Any) -> Iterator[np.ndarray]:
    """The bytes of all entries, some thousand at a time.

    Entries may share what they refer to, so a small file could stand for any number of them.
    """
    import h5py

    if h5py.check_string_dtype(dataset.dtype) is None:
        raise CorpusError(f"`{dataset.name}` holds values of type {dataset.dtype}, expected text or numbers")
    room = dataset.file.id.get_filesize()
    at_once = min(_MOST_STRINGS, max(_LEAST_STRINGS, _MOST_UNPACKED // max(room, 1)))
    length = 0
    for start in range(0, dataset.shape[0], at_once):
        part = dataset[start : start + at_once]
        length += sum(map(len, part))
        if length > room:
            raise CorpusError(f"`{dataset.name}` holds more text than there are bytes in the file")
        yield part


def _stored_in_hdf5(dataset: Any) -> _Stored:
    """What the file holds of a dataset; refuses one that is packed by a filter that is not installed."""
    kind = dataset.id
    item = kind.get_type().get_size()
    if dataset.chunks is None:
        # compact data lie in the header, and data that were never written nowhere
        n_bytes = min(kind.get_storage_size(), dataset.file.id.get_filesize())
        return _Stored(item, int(n_bytes > 0), n_bytes)
    _require_filters(dataset)
    sizes = [0]
    if kind.get_create_plist().get_nfilters():
        kind.chunk_iter(lambda chunk: sizes.append(chunk.size))
    return _Stored(item, kind.get_num_chunks(), kind.get_storage_size(), max(sizes))


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


def _stored_in_zarr(array: Any) -> _Stored:
    """What a folder holds of an array; refuses a chunk that says it unpacks to more than it should hold."""
    refuse_odd_shards(array)
    files = [
        Path(folder, name)
        for folder, _, names in os.walk(Path(array.store.root, array.path))
        for name in names
        if name not in _METADATA
    ]
    item, sizes = array.dtype.itemsize, [0]
    for file in files:
        chunks = _chunks_of_file(array, file)
        sizes += [size for _, size in chunks]
        _check_unpacked(array, file, chunks, _most_of_a_chunk(array, item))
    return _Stored(item, len(sizes) - 1, sum(sizes), max(sizes))


def _check_unpacked(array: Any, file: Path, chunks: list[tuple[int, int]], most: int) -> None:
    packer = _packer(array)
    if packer not in _UNPACKED:
        return
    with open(file, "rb") as opened:
        for offset, size in chunks:
            if (content := _UNPACKED[packer](opened, offset, size)) > most:
                raise CorpusError(f"a chunk of `{array.name}` in `{file}` claims to unpack to {content:,} bytes")


def _packer(array: Any) -> str:
    """The codec of zarr that packs the chunks of an array; "" where none does."""
    names = [type(codec).__name__.removesuffix("Codec") for codec in array.compressors]
    packers = [name for name in names if name not in _SAME_SIZE]
    if len(packers) > 1:
        raise CorpusError(f"`{array.name}` is compressed more than once ({', '.join(packers)}), expected one codec")
    return "".join(packers)


def _chunks_of_file(array: Any, file: Path) -> list[tuple[int, int]]:
    """Offset and length of each chunk in a file of an array of zarr."""
    if array.shards is None:
        return [(0, file.stat().st_size)]
    return [(offset, size) for offset, size in read_shard_index(array, file).tolist() if offset != MISSING]


def _read_at(opened: BinaryIO, offset: int, size: int) -> bytes:
    opened.seek(offset)
    return opened.read(size)


def _blosc_content(opened: BinaryIO, offset: int, size: int) -> int:
    """What the header of Blosc says (https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst)."""
    return int.from_bytes(_read_at(opened, offset + 4, 4), "little")


def _lz4_content(opened: BinaryIO, offset: int, size: int) -> int:
    """What numcodecs writes before a block of LZ4."""
    return int.from_bytes(_read_at(opened, offset, 4), "little")


def _zstd_content(opened: BinaryIO, offset: int, size: int) -> int:
    """What the first frame of Zstandard says; where it does not say, the most that all blocks can hold (RFC 8878).

    Of several frames it is the first one's: to find the others, all of the chunk would have to be read.
    """
    head = _read_at(opened, offset, min(size, _ZSTD_HEADER_BYTES))
    if head[:4] == _ZSTD and (content := _zstd_header(head)[1]) is not None:
        return content
    return _zstd_blocks(_read_at(opened, offset, size))


def _zstd_header(head: bytes) -> tuple[int, int | None]:
    """Length of the header of a frame, and the bytes that it says it unpacks to."""
    descriptor = head[4] if len(head) > 4 else 0
    flag, is_single, n_dictionary = descriptor >> 6, descriptor >> 5 & 1, (0, 1, 2, 4)[descriptor & 3]
    start, length = 5 + 1 - is_single + n_dictionary, (is_single, 2, 4, 8)[flag]
    content = int.from_bytes(head[start : start + length], "little") if length else None
    return start + length, content if content is None or flag != 1 else content + 256


def _zstd_blocks(frames: bytes) -> int:
    """The most bytes that the blocks of some frames unpack to."""
    place = total = 0
    while (magic := frames[place : place + 4]) == _ZSTD or magic[1:] == _ZSTD_SKIPPED:
        if magic != _ZSTD:
            place += 8 + int.from_bytes(frames[place + 4 : place + 8], "little")
            continue
        has_checksum = frames[place + 4] >> 2 & 1 if place + 4 < len(frames) else 0
        place += _zstd_header(frames[place : place + _ZSTD_HEADER_BYTES])[0]
        is_last = 0
        while not is_last and place < len(frames):
            block = int.from_bytes(frames[place : place + 3], "little")
            is_last, kind, size = block & 1, block >> 1 & 3, block >> 3
            # stored as it is, one byte repeated, or compressed
            total += size if kind < 2 else _ZSTD_BLOCK
            place += 3 + (1 if kind == 1 else size)
        place += 4 * has_checksum
    return total


_UNPACKED = {"Zstd": _zstd_content, "Blosc": _blosc_content, "LZ4": _lz4_content}
"""Codec of zarr -> what a chunk packed by it says that it unpacks to; gzip, bzip2 and LZMA do not say."""

_SAME_SIZE = ("Crc32c", "CRC32C", "CRC32", "Adler32", "Fletcher32", "JenkinsLookup3", "Shuffle")
"""Codecs that change the bytes of a chunk and, but for a checksum, not their number."""
