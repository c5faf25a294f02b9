"""Where chunks lie in the shards of a zarr array, format 3; zarr reads those that were never written as zeros.

Layout of the index: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorpusError

MISSING = 2**64 - 1
"""Offset and length of a chunk that is not there."""

_INDEX_CODECS = (["BytesCodec"], ["BytesCodec", "Crc32cCodec"])
_ENTRY_BYTES, _CHECKSUM_BYTES = 16, 4


def refuse_odd_shards(array: Any) -> None:
    """Refuse an array of zarr whose shards hold shards, or are packed or turned as a whole.

    Raises:
        CorpusError: names the array.
    """
    codecs = getattr(array.metadata, "codecs", ())
    within = codecs if array.shards is None else codecs[0].codecs
    if any(type(codec).__name__ == "ShardingCodec" for codec in within):
        raise CorpusError(f"`{array.name}` has shards that hold shards or are compressed as a whole, expected chunks")


def read_shard_index(array: Any, file: Path) -> np.ndarray:
    """Read offsets and lengths of the chunks of a shard.

    Args:
        array: of zarr, with shards.
        file: the shard.

    Returns:
        (chunks, 2) uint64 offset and length in bytes; chunks beyond the edge of the array are left out.

    Raises:
        CorpusError: the shard is too short for its index, or the index is compressed.
    """
    codec = array.metadata.codecs[0]
    if [type(one).__name__ for one in codec.index_codecs] not in _INDEX_CODECS:
        raise CorpusError(f"the index of the shards of `{array.name}` is compressed, expected plain numbers")
    per_shard = [shard // chunk for shard, chunk in zip(array.shards, array.chunks, strict=True)]
    n_bytes = _ENTRY_BYTES * math.prod(per_shard)
    total = n_bytes + _CHECKSUM_BYTES * (len(codec.index_codecs) - 1)
    if file.stat().st_size < total:
        raise CorpusError(f"the shard `{file}` is shorter than its index")
    with open(file, "rb") as opened:
        if codec.index_location.value == "end":
            opened.seek(-total, os.SEEK_END)
        index = np.frombuffer(opened.read(n_bytes), "<u8").reshape(*per_shard, 2)
    place = map(int, re.findall(r"\d+", str(file.relative_to(Path(array.store.root, array.path)))))
    edges = (
        -(-length // chunk) - number * count
        for length, chunk, number, count in zip(array.shape, array.chunks, place, per_shard, strict=True)
    )
    return index[tuple(slice(0, max(edge, 0)) for edge in edges)].reshape(-1, 2)
