"""Inverted lists of cells: to which centre each is nearest, so that a search looks at few; in memory and on disk."""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .errors import CheckpointError, ConfigurationError, SclmError, require
from .files import require_regular_file, sole_writer, written_whole
from .logging import warn

LISTS = "lists.safetensors"
"""Where they lie in the folder of an index."""

_PROBED, _ROUNDS, _TAUGHT = 8, 10, 64
"""How many lists are looked at; rounds and cells per list to find the centres."""


class CellLists(NamedTuple):
    """The lists.

    Attributes:
        centres: (lists, size) float32.
        list_of: (cells,) int32, the list of each cell.
    """

    centres: np.ndarray
    list_of: np.ndarray

    @classmethod
    def of_cells(cls, cells: np.ndarray) -> "CellLists":
        """About as many lists as a list has cells, each of those that its centre is the nearest of.

        Args:
            cells: (cells, size) float32 of length 1.

        Raises:
            MissingDependencyError: `faiss` is not installed.
        """
        faiss = require("faiss", extra="text")
        nearest = faiss.IndexFlatIP(cells.shape[1])
        lists = faiss.IndexIVFFlat(nearest, cells.shape[1], int(np.sqrt(len(cells))), faiss.METRIC_INNER_PRODUCT)
        lists.cp.niter = _ROUNDS
        # cells of a file are seldom in random order
        lists.train(cells[:: max(1, len(cells) // (_TAUGHT * lists.nlist))])
        return cls(nearest.reconstruct_n(0, lists.nlist), nearest.search(cells, 1)[1].ravel().astype(np.int32))

    def searched(self, cells: np.ndarray) -> Any:
        """The faiss index that searches them.

        Args:
            cells: those that the lists were made of.
        """
        faiss, ivf_tools = require("faiss", extra="text"), require("faiss.contrib.ivf_tools", extra="text")
        nearest = faiss.IndexFlatIP(cells.shape[1])
        nearest.add(self.centres)
        lists = faiss.IndexIVFFlat(nearest, cells.shape[1], len(self.centres), faiss.METRIC_INNER_PRODUCT)
        ivf_tools.add_preassigned(lists, np.ascontiguousarray(cells), self.list_of.astype(np.int64))
        return lists

    def write(self, path: Path, cells: np.ndarray) -> None:
        """Write them, with hashes of them and of the cells; arguments are as for [`searched`]."""
        from safetensors.numpy import save_file

        save_file(self._asdict(), path, {"cells": _hash(cells), "lists": _hash(*self)})


def read_lists(folder: Path, cells: np.ndarray) -> CellLists | None:
    """The lists that an index keeps; None where it keeps none.

    Args:
        folder: of the index.
        cells: (cells, size) its embeddings.

    Raises:
        CheckpointError: they are damaged, or those of other cells.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / LISTS
    require_regular_file(path)
    if not path.exists():
        return None
    mend = f"remove `{path}`, and it is made anew."
    try:
        with safe_open(path, "numpy") as file:
            hashes = file.metadata() or {}
            lists = CellLists(file.get_tensor("centres"), file.get_tensor("list_of"))
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"The lists of the index `{folder}` cannot be read ({error}): {mend}") from error
    if "lists" not in hashes:
        raise CheckpointError(f"The lists of the index `{folder}` are of an earlier version, without a hash: {mend}")
    if hashes["lists"] != _hash(*lists):
        raise CheckpointError(f"The lists of the index `{folder}` are damaged: {mend}")
    if hashes.get("cells") != _hash(cells):
        raise CheckpointError(f"The index `{folder}` keeps lists of other cells than its own: {mend}")
    centres, list_of = lists
    shapes = centres.ndim == 2 and centres.shape[1:] == cells.shape[1:] and list_of.shape == (len(cells),)
    if not shapes or (centres.dtype, list_of.dtype) != (np.float32, np.int32) or not np.isfinite(centres).all():
        raise CheckpointError(f"The lists of the index `{folder}` do not fit its cells: {mend}")
    if list_of.min() < 0 or list_of.max() >= len(centres):
        raise CheckpointError(f"The lists of the index `{folder}` do not fit its cells: {mend}")
    return lists


def keep_lists(folder: Path, lists: CellLists, cells: np.ndarray) -> None:
    """Keep lists in the folder of an index, unless another run is doing so; warns where it cannot be written.

    Args:
        folder: of the index.
        lists: its lists.
        cells: (cells, size) its embeddings.
    """
    from safetensors import SafetensorError

    again = "the lists of its cells are made anew by each run."
    if not os.access(folder, os.W_OK):
        warn(f"The index `{folder}` cannot be written to: {again}")
        return
    try:
        with sole_writer(folder / LISTS), written_whole(folder / LISTS) as unfinished:
            lists.write(unfinished, cells)
    except ConfigurationError:
        # the other run keeps the same
        return
    # a full disk, which is an error of its own to safetensors, is no reason to lose the search
    except (SclmError, SafetensorError) as error:
        warn(f"The index `{folder}` cannot be written to ({error}): {again}")


def search_lists(lists: Any, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> np.ndarray:
    """(queries, k) rows of the cells nearest to each query in the lists nearest to it; -1 where they hold fewer.

    Args:
        lists: of [`CellLists.searched`].
        queries: (queries, size) float32 of length 1.
        k: how many cells.
        allowed: (cells,) which of them may be found; None = all.
    """
    faiss = require("faiss", extra="text")
    chosen = None if allowed is None else faiss.IDSelectorBatch(np.flatnonzero(allowed))
    return lists.search(queries, k, params=faiss.SearchParametersIVF(nprobe=_PROBED, sel=chosen))[1]


def _hash(*arrays: np.ndarray) -> str:
    content = hashlib.blake2b(digest_size=16)
    for array in arrays:
        content.update(np.ascontiguousarray(array))
    return content.hexdigest()
