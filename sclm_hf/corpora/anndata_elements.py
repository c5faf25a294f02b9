"""Data frames and matrices of an AnnData on disk, as h5py and zarr show them, of every age of anndata.

See "On-disk format" at https://anndata.readthedocs.io. What older versions wrote differently: data frames as one
compound array with the categories of its columns in `uns` (before 0.7), categories beside the columns in
`__categories` (before 0.8), `raw.X` for `raw/X`, `h5sparse_format` for `encoding-type`.
"""

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import CorpusError, require
from .containment import refuse_stored_elsewhere
from .hdf5_strings import joined_strings
from .sources import CategoricalColumn

# Of fewer strings h5py reads all in half a millisecond.
_MANY = 2048


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
    def _columns(self) -> list[str]:
        return [] if self._frame is None else column_names(self._frame)

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> list[str]:
        column = read_column(self._store, self._frame, name)
        return np.array([*column.categories, ""], dtype=object)[column.codes].tolist()


def describe(matrix: Any) -> tuple[str, tuple[int, int]]:
    """How a matrix is stored ("csr", "csc" or "dense"), and its shape.

    Raises:
        CorpusError: it is something else.
    """
    attributes = matrix.attrs
    if hasattr(matrix, "shape"):
        if len(matrix.shape) != 2:
            raise CorpusError(f"`{matrix.name}` has {len(matrix.shape)} dimensions, not 2")
        return "dense", (int(matrix.shape[0]), int(matrix.shape[1]))
    old = "h5sparse_" if "encoding-type" not in attributes else ""
    storage = _text(attributes.get(f"{old}format" if old else "encoding-type", "")).removesuffix("_matrix")
    if storage not in ("csr", "csc"):
        raise CorpusError(f"`{matrix.name}` is neither a dense, a CSR nor a CSC matrix")
    n_cells, n_genes = attributes[f"{old}shape"]
    return storage, (int(n_cells), int(n_genes))


def column_names(frame: Any) -> list[str]:
    """Names of the columns of `obs` or `var`, the index left out."""
    if hasattr(frame, "dtype"):
        return [name for name in frame.dtype.names if name != _index_name(frame)]
    others = "__categories", _index_name(frame)
    return [name for name in frame if name not in others]


def read_index(frame: Any) -> np.ndarray:
    """(rows,) names of the rows of `obs` or `var`."""
    return _strings(frame[_index_name(frame)])


def read_column(store: Any, frame: Any, name: str) -> CategoricalColumn:
    """A column of `obs` or `var` in compact form, whatever its type."""
    column = frame[name]
    if hasattr(column, "keys") and "categories" in column and "codes" in column:
        return _compact(column["codes"][:], _values(column["categories"]))
    if hasattr(column, "shape") and "categories" in getattr(column, "attrs", {}):
        return _compact(column[:], _referred(frame, column.attrs["categories"])[:])
    if hasattr(frame, "dtype") and f"uns/{name}_categories" in store:
        return _compact(column, np.atleast_1d(store[f"uns/{name}_categories"][()]))
    if hasattr(column, "keys"):
        missing = column["mask"][:] if "mask" in column else np.zeros(len(_values(column)), bool)
    else:
        missing = np.isnan(column[:]) if column.dtype.kind == "f" else np.zeros(len(column), bool)
    text = _strings(column)
    categories, codes = np.unique(text[~missing].astype(str), return_inverse=True)
    all_codes = np.full(len(text), -1, dtype=np.int64)
    all_codes[~missing] = codes
    return _compact(all_codes, categories)


def _index_name(frame: Any) -> str:
    if hasattr(frame, "dtype") and "_index" not in frame.attrs:
        # anndata before 0.7 wrote the index as the first field, named "index".
        return frame.dtype.names[0]
    return _text(frame.attrs.get("_index", "index"))


def _referred(frame: Any, reference: Any) -> Any:
    """What a reference of HDF5, or a path of zarr, leads to."""
    found = frame[reference]
    if type(found).__module__.partition(".")[0] == "h5py":
        refuse_stored_elsewhere(found, found.file.filename)
    return found


def _values(element: Any) -> np.ndarray:
    """What an array, or a group that encodes one (nullable strings and numbers), holds."""
    if hasattr(element, "shape"):
        return element[:]
    return np.asarray(require("anndata", extra="anndata").io.read_elem(element), dtype=object)


def _compact(codes: np.ndarray, categories: np.ndarray) -> CategoricalColumn:
    if codes.size and not -1 <= codes.min() <= codes.max() < len(categories):
        raise CorpusError(f"a column has codes {codes.min()}..{codes.max()} for {len(categories)} categories")
    return CategoricalColumn(codes.astype(np.min_scalar_type(-len(categories) - 1)), tuple(_as_strings(categories)))


def _strings(element: Any) -> np.ndarray:
    joined = joined_strings(element) if getattr(element, "size", 0) >= _MANY else None
    return _as_strings(_values(element)) if joined is None else _decoded(joined)


def _as_strings(values: np.ndarray) -> np.ndarray:
    items = values.tolist()
    if set(map(type, items)) == {bytes}:
        # Decoding all at once is several times faster; no name holds a NUL, which ends strings in HDF5.
        return _decoded(b"\0".join(items))
    return np.array([str(item) for item in items], dtype=object)


@functools.lru_cache(maxsize=4)
def _decoded(names: bytes) -> np.ndarray:
    # The files of a corpus often have the same genes.
    decoded = np.array(names.decode().split("\0"), dtype=object)
    decoded.flags.writeable = False
    return decoded


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
