"""Whether a .h5ad file opens as an AnnData: what is copied along must not spoil the file that results are added to."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CorpusError, require
from ..reading_errors import reading_errors_named
from ..stored_arrays import read_whole

_MOST_READ = 2**28
"""Bytes of an element that is read to see whether it can be; of larger ones the shape is believed."""

_CELLS = {"obs": 0, "obsm": 0, "obsp": 0, "layers": 0}
_GENES = {"var": 0, "varm": 0, "varp": 0, "layers": 1}
"""Which dimension of what lies in a part is that of the cells, and of the genes."""


def refuse_unreadable(file: Any, path: Path) -> None:
    """Refuse an open .h5ad file that `anndata.read_h5ad` could not read.

    Args:
        file: an `h5py.File`.
        path: its path, for messages.

    Raises:
        CorpusError: an element is damaged, of an unknown kind, or of another length than the cells or genes.
    """
    with reading_errors_named(path, "AnnData file"):
        parts = {name: _read(file[name]) for name in {**_CELLS, **_GENES, "uns": 0, "raw": 0} if name in file}
        for what, dimensions in (("cells", _CELLS), ("genes", _GENES)):
            lengths = _lengths(parts, dimensions)
            # however large it is, only its shape is looked at here
            shape = _shape(file["X"]) if "X" in file else None
            if shape is not None:
                lengths["X"] = int(shape[int(what == "genes")])
            frame = next(iter(dimensions))
            if others := {name: n for name, n in lengths.items() if n != lengths.get(frame, n)}:
                name, length = next(iter(others.items()))
                raise CorpusError(
                    f"`{name}` is for {length:,} {what}, and `{frame}` has {lengths[frame]:,}: the file is "
                    "damaged, or put together of parts that do not belong together"
                )


def _lengths(parts: dict[str, Any], dimensions: dict[str, int]) -> dict[str, int]:
    """Length of every element along the cells or the genes, as far as it was read."""
    lengths: dict[str, int] = {}
    for part in (name for name in dimensions if name in parts):
        found = parts[part] if isinstance(parts[part], Mapping) else {"": parts[part]}
        for name, value in found.items():
            if value is not None:
                shape = getattr(value, "shape", None) or (len(value),)
                lengths[f"{part}/{name}" if name else part] = shape[dimensions[part]]
    return lengths


def _shape(matrix: Any) -> Any:
    """(cells, genes) of a stored matrix; None where it has no such shape."""
    shape = getattr(matrix, "shape", None) or matrix.attrs.get("shape", ())
    return shape if len(shape) == 2 else None


def _read(element: Any) -> Any:
    """An element as anndata reads it; of what is large, an array of its shape that takes no memory, or None."""
    read_elem = require("anndata", extra="anndata").io.read_elem
    if _claimed(element) <= _MOST_READ:
        _refuse_shared_texts(element)
        return read_elem(element)
    shape = getattr(element, "shape", None) or element.attrs.get("shape")
    if shape is not None:
        return np.broadcast_to(np.float32(0), tuple(int(size) for size in shape))
    if element.attrs.get("encoding-type", "dict") == "dict":
        return {name: _read(element[name]) for name in element}
    return None


def _claimed(element: Any) -> float:
    """Bytes that an element takes when it is read, as far as its header says."""
    if not hasattr(element, "dtype"):
        return sum(_claimed(element[name]) for name in element)
    if element.dtype.kind != "O":
        return element.size * element.dtype.itemsize
    # a string is an object of Python; anndata writes objects of no other kind and shape
    is_text = len(element.shape) < 2 and require("h5py", extra="anndata").check_string_dtype(element.dtype) is not None
    return element.size * 64 if is_text else math.inf


def _refuse_shared_texts(element: Any) -> None:
    """Refuse text that is read as more than the file holds, as its entries refer to the same bytes."""
    if not hasattr(element, "dtype"):
        for name in element:
            _refuse_shared_texts(element[name])
    elif element.dtype.kind == "O" and element.shape:
        read_whole(element)
