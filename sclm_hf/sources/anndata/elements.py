"""Data frames and matrices of an AnnData on disk, as h5py and zarr show them, of every age of anndata.

See "On-disk format" at https://anndata.readthedocs.io. What older versions wrote differently: data frames as one
compound array with the categories of its columns in `uns` (before 0.7), categories beside the columns in
`__categories` (before 0.8), `raw.X` for `raw/X`, `h5sparse_format` for `encoding-type`.
"""

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...errors import CorpusError
from ...tokenization.encodings.keys import hash_joined, hash_names
from ..cell_source import CategoricalColumn
from ..containment import refuse_stored_elsewhere
from ..stored_arrays import (
    check_stored,
    chunks_lack,
    is_array,
    is_of_h5py,
    read_in_parts,
    read_whole,
    read_whole_numbers,
)


def view(store: Any, *, genes: bool) -> SimpleNamespace:
    """What `select_counts` looks at of an AnnData; nothing of it is read but, where asked for, the names of genes."""

    def part(matrix: Any, var: str) -> dict[str, Any]:
        frame = store[var] if genes else None
        names = read_index(frame) if genes else []
        return {"X": matrix, "var": _Frame(store, frame), "var_names": names}

    raw = next(((store[x], var) for x, var in (("raw/X", "raw/var"), ("raw.X", "raw.var")) if x in store), None)
    return SimpleNamespace(
        layers={name: store["layers"][name] for name in store["layers"]} if "layers" in store else {},
        raw=SimpleNamespace(**part(*raw)) if raw else None,
        **part(store.get("X"), "var"),
    )


class _Frame:
    """A data frame in a store whose columns are read when they are asked for."""

    def __init__(self, store: Any, frame: Any) -> None:
        self._store, self._frame = store, frame

    @functools.cached_property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return [] if self._frame is None else column_names(self._frame)

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> list[str]:
        column = read_column(self._store, self._frame, name, n_rows(self._frame))
        return np.array([*column.categories, ""], dtype=object)[column.codes].tolist()


def describe(matrix: Any) -> tuple[str, tuple[int, int]]:
    """How a matrix is stored ("csr", "csc" or "dense"), and its shape.

    Raises:
        CorpusError: it is something else.
    """
    if is_of_h5py(matrix):
        refuse_stored_elsewhere(matrix)
    attributes = matrix.attrs
    if is_array(matrix):
        if len(matrix.shape) != 2:
            raise CorpusError(f"`{matrix.name}` has {len(matrix.shape)} dimensions, not 2")
        return "dense", (int(matrix.shape[0]), int(matrix.shape[1]))
    old = "h5sparse_" if "encoding-type" not in attributes else ""
    storage = _text(attributes.get(f"{old}format" if old else "encoding-type", "")).removesuffix("_matrix")
    if storage not in ("csr", "csc"):
        raise CorpusError(f"`{matrix.name}` is neither a dense, a CSR nor a CSC matrix")
    shape = np.asarray(attributes.get(f"{old}shape"))
    if shape.shape != (2,) or shape.dtype.kind not in "iu" or (shape < 0).any():
        raise CorpusError(f"`{matrix.name}` has the shape {shape.tolist()!r}, expected two whole numbers")
    return storage, (int(shape[0]), int(shape[1]))


def check_matrix(store: Any, key: str, storage: str, shape: tuple[int, int]) -> None:
    """Refuse a matrix that is not stored as a whole, or that does not fit the names of its cells and genes.

    Only headers are read.

    Raises:
        CorpusError: it is so; the message names the element.
    """
    matrix, var = store[key], {"/raw/X": "raw/var", "/raw.X": "raw.var"}.get(key, "var")
    for frame, number, lines in (("obs", shape[0], "rows"), (var, shape[1], "columns")):
        if frame not in store:
            raise CorpusError(f"it has no `{frame}`")
        if (n_names := n_rows(store[frame])) != number:
            raise CorpusError(f"`{frame}` has {n_names:,} names for the {number:,} {lines} of `{key}`")
    if storage == "dense":
        check_stored(matrix, zeros_may_lack=not is_of_h5py(matrix))
        parts = {"values": matrix}
    else:
        parts = {name: _part(matrix, name) for name in ("indptr", "indices", "data")}
        n_bounds = shape[storage == "csc"] + 1
        if parts["indptr"].shape != (n_bounds,) or parts["indices"].shape != parts["data"].shape:
            raise CorpusError(
                f"indptr, indices and data of `{key}` do not fit together: {parts['indptr'].shape[0]:,} bounds "
                f"(expected {n_bounds:,}), {parts['indices'].shape[0]:,} indices, {parts['data'].shape[0]:,} values"
            )
        for name in ("indptr", "indices"):
            if parts[name].dtype.kind not in "iu":
                raise CorpusError(f"{name} of `{key}` are of type {parts[name].dtype}, expected whole numbers")
    values = parts.get("data", matrix)
    if values.dtype.kind not in "biuf":
        raise CorpusError(f"`{key}` holds values of type {values.dtype}, expected real numbers")
    if storage != "dense":
        for part in parts.values():
            check_stored(part)


def _part(matrix: Any, name: str) -> Any:
    """A one-dimensional array of a sparse matrix."""
    part = matrix.get(name)
    if not is_array(part) or len(part.shape) != 1:
        raise CorpusError(f"`{matrix.name}/{name}` is missing or no one-dimensional array")
    return part


def column_names(frame: Any) -> list[str]:
    """Names of the columns of `obs` or `var`, the index left out."""
    if _is_compound(frame):
        return [name for name in frame.dtype.names if name != _index_name(frame)]
    others = "__categories", _index_name(frame)
    return [name for name in frame if name not in others]


def n_rows(frame: Any) -> int:
    """Number of rows of `obs` or `var`, of which all names are stored.

    Raises:
        CorpusError: some are not.
    """
    names = frame if _is_compound(frame) else _index(frame)
    values, mask = (names, None) if is_array(names) else _masked(names)
    if len(values.shape) != 1:
        raise CorpusError(f"`{values.name}` is no one-dimensional array")
    check_stored(values)
    if mask is not None:
        check_stored(mask, zeros_may_lack=True)
    return values.shape[0]


def read_index(frame: Any) -> np.ndarray:
    """(rows,) names of the rows of `obs` or `var`.

    Raises:
        CorpusError: one has none.
    """
    return _strings(index_values(frame))


def hash_index(frame: Any) -> np.ndarray:
    """(rows,) uint64, what `hash_names` gives of the names of the rows; some thousand are in memory at a time.

    Raises:
        CorpusError: one has none.
    """
    return np.concatenate([np.empty(0, np.uint64), *map(hash_texts, read_in_parts(index_values(frame)))])


def hash_texts(values: np.ndarray) -> np.ndarray:
    """(entries,) uint64, what `hash_names` gives of entries of an array of text."""
    items = values.tolist()
    if set(map(type, items)) == {bytes}:
        # as in `_as_strings`, and nobody needs the names themselves
        text = b"\0".join(items)
        if text.count(0) == len(items) - 1:
            text.decode()
            return hash_joined(text, len(items))
    return hash_names(list(map(_text, items)))


def index_values(frame: Any) -> Any:
    """The array of the names of the rows of `obs` or `var`.

    Raises:
        CorpusError: one has none, or they are measurements.
    """
    index = _index(frame)
    if is_array(index):
        if index.dtype.kind == "f":
            raise CorpusError(f"`{index.name}` holds values of type {index.dtype}, expected names")
        return index
    values, mask = _masked(index)
    if (missing := read_whole(mask, zeros_may_lack=True)).any():
        raise CorpusError(f"`{index.name}` holds no name for row {int(np.argmax(missing))} (counted from 0)")
    return values


def read_column(store: Any, frame: Any, name: str, length: int | None = None) -> CategoricalColumn:
    """A column of `obs` or `var` in compact form, whatever its type.

    Args:
        store: the open store.
        frame: `obs` or `var`.
        name: name of the column.
        length: how many values it must have; None = any number.

    Raises:
        CorpusError: it is damaged, or has another number of values.
    """
    if _is_compound(frame):
        check_stored(frame)
    column = frame[name]
    if hasattr(column, "keys") and "categories" in column and "codes" in column:
        return _categorical(column["codes"], column["categories"], length)
    if is_array(column) and "categories" in getattr(column, "attrs", {}):
        return _categorical(column, _referred(frame, column.attrs["categories"]), length)
    if _is_compound(frame) and f"uns/{name}_categories" in store:
        categories = store[f"uns/{name}_categories"]
        return _categorical(column, categories if categories.shape else np.atleast_1d(categories[()]), length)
    column, mask = _masked(column) if hasattr(column, "keys") else (column, None)
    if column.dtype.kind == "f":
        values = read_whole(column, length, zeros_may_lack=True)
        missing, texts = np.isnan(values), _as_strings(values)
    else:
        texts = _strings(column, length, zeros_may_lack=True)
        missing = np.zeros(len(texts), bool)
    if mask is not None:
        missing |= read_whole(mask, length, zeros_may_lack=True).astype(bool)
    categories = sorted(set(texts[~missing].tolist()))
    numbers = {text: number for number, text in enumerate(categories)}
    codes = [-1 if lacks else numbers[text] for text, lacks in zip(texts.tolist(), missing.tolist(), strict=True)]
    return _compact(np.array(codes, np.int64), categories)


def obsm_names(store: Any) -> list[str]:
    """Names of the arrays in `obsm`; anndata before 0.7 wrote one compound array, of which none are read."""
    arrays = store.get("obsm")
    return [] if arrays is None or is_array(arrays) else sorted(arrays)


def read_obsm(store: Any, name: str, length: int) -> np.ndarray:
    """An array of `obsm`.

    Args:
        store: the open store.
        name: one of `obsm_names`.
        length: how many rows it must have.

    Raises:
        CorpusError: it is no array of numbers with as many rows, or is damaged.
    """
    array = store["obsm"][name]
    if not is_array(array) or array.dtype.kind not in "iuf" or not array.shape or array.shape[0] != length:
        raise CorpusError(f"`obsm/{name}` is no array of numbers with one row for each of the {length:,} cells")
    check_stored(array, zeros_may_lack=not is_of_h5py(array))
    return np.asarray(array[...])


def check_columns(frame: Any, length: int) -> None:
    """Refuse a data frame with a column of another length, or of codes that lead nowhere.

    Args:
        frame: `obs` or `var`.
        length: number of its rows.

    Raises:
        CorpusError: it has one; the message names it.
    """
    for name in [] if _is_compound(frame) else column_names(frame):
        column = frame[name]
        if hasattr(column, "keys") and "codes" in column and "categories" in column:
            _categorical(column["codes"], column["categories"], length)
            continue
        for array in (column,) if is_array(column) else _masked(column):
            if array.shape != (length,):
                raise CorpusError(f"`{array.name}` has the shape {array.shape}, expected ({length:,},)")


def _is_compound(frame: Any) -> bool:
    """Whether a data frame is one array, as before anndata 0.7."""
    if is_array(frame):
        if frame.dtype.names is None:
            raise CorpusError(f"`{frame.name}` is an array, expected a data frame")
        return True
    return False


def _index_name(frame: Any) -> str:
    if _is_compound(frame) and "_index" not in frame.attrs:
        # anndata before 0.7 wrote the index as the first field, named "index"
        return frame.dtype.names[0]
    return _text(frame.attrs.get("_index", "index"))


def _index(frame: Any) -> Any:
    """The array of the names of rows, or the group that encodes one."""
    name = _index_name(frame)
    if _is_compound(frame):
        check_stored(frame)
    elif name not in frame:
        raise CorpusError(f"`{frame.name}` has no index `{name}`")
    return frame[name]


def _masked(group: Any) -> tuple[Any, Any]:
    """Values and mask (True = no value) of a group that encodes nullable strings or numbers."""
    if "values" not in group or "mask" not in group:
        raise CorpusError(f"`{group.name}` is no column: expected an array, categories or values with a mask")
    values, mask = group["values"], group["mask"]
    if not is_array(values) or not is_array(mask) or values.shape != mask.shape:
        raise CorpusError(f"values and mask of `{group.name}` do not fit together")
    return values, mask


def _referred(frame: Any, reference: Any) -> Any:
    """What a reference of HDF5, or a path of zarr, leads to."""
    found = frame[reference]
    if is_of_h5py(found):
        refuse_stored_elsewhere(found)
    return found


def _categorical(stored_codes: Any, stored_categories: Any, length: int | None) -> CategoricalColumn:
    codes = read_whole_numbers(stored_codes, length, zeros_may_lack=True)
    missing = None
    if not is_array(stored_categories):
        stored_categories, missing = _masked(stored_categories)
    categories = _as_strings(read_whole(stored_categories))
    if missing is not None and read_whole(missing, zeros_may_lack=True).any():
        raise CorpusError(f"`{missing.name}`: a category has no name")
    column = _compact(codes, categories)
    if chunks_lack(stored_codes) and len(np.setdiff1d(np.arange(len(categories)), codes)):
        raise CorpusError(
            f"chunks of `{stored_codes.name}` are missing and some of its categories have no cells: they may have "
            "been lost; if not, write the folder again after `.cat.remove_unused_categories()`"
        )
    return column


def _compact(codes: np.ndarray, categories: Sequence[str]) -> CategoricalColumn:
    if codes.size and not -1 <= codes.min() <= codes.max() < len(categories):
        raise CorpusError(f"a column has codes {codes.min()}..{codes.max()} for {len(categories)} categories")
    return CategoricalColumn(codes.astype(np.min_scalar_type(-len(categories) - 1)), tuple(categories))


def _strings(array: Any, length: int | None = None, *, zeros_may_lack: bool = False) -> np.ndarray:
    """The entries of an array as text; arguments and errors are those of `read_whole`."""
    return _as_strings(read_whole(array, length, zeros_may_lack=zeros_may_lack))


def _as_strings(values: np.ndarray) -> np.ndarray:
    items = values.tolist()
    if set(map(type, items)) == {bytes}:
        # decoding all at once is several times faster; strings of a fixed length may hold the NUL that parts them here
        decoded = _decoded(b"\0".join(items))
        return decoded if len(decoded) == len(items) else np.array([item.decode() for item in items], object)
    return np.array([str(item) for item in items], dtype=object)


@functools.lru_cache(maxsize=4)
def _decoded(names: bytes) -> np.ndarray:
    # the files of a corpus often have the same genes
    decoded = np.array(names.decode().split("\0"), dtype=object)
    decoded.flags.writeable = False
    return decoded


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
