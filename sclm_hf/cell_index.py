"""Labelled cells, and those nearest to a query by the cosine of any cell embedding; in memory and on disk."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from .cell_lists import LISTS, CellLists, keep_lists, read_lists, search_lists
from .errors import CheckpointError, ConfigurationError, require, unknown_name
from .files import read_json_object, require_regular_file, write_text
from .tokenization.expression_matrix import match_length

BACKENDS = ("exact", "faiss", "approximate")
FACTS = "index.json"
_QUERIES, _CELLS, _PAIRS = 1024, 2**14, 2**13
"""How many queries are compared with how many cells at a time, so that the cosines take 64 MB; and how many pairs."""

_SAMPLE, _REST = 2**13, 0.02
"""Of so many cells or more it is looked at how they differ, and axes are left out that hold this share of it."""

_ERROR = 4e-6
"""Cosines of a product of float32 matrices that differ by less may be equal."""

_MORE = 64
"""So many more cells than asked for are taken from faiss, to see those as near as the last."""

_LISTED = 2**14
"""From so many cells on lists pay."""


@dataclass
class CellIndex:
    """Labelled cells that can be searched.

    Attributes:
        embeddings: (cells, size) float32 of length 1, see [`directions`].
        labels: (cells,) their labels.
        cells: (cells,) their names.
        groups: (cells,) the donor or data set of each, or None.
        backend: `"exact"`; `"faiss"` finds the same with faiss, which is faster where no few coordinates rule out most
            cells; `"approximate"` looks only at the cells in the lists whose centres are nearest to a query (faiss'
            inverted lists), which is much faster among many cells and may miss some.
        folder: where the lists are kept that `"approximate"` looks at; None = they are made at the first query.
        keeps: whether lists that are not in the folder are written there.

    Raises:
        ConfigurationError: there is no such `backend`.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    cells: np.ndarray
    groups: np.ndarray | None = None
    backend: str = "exact"
    folder: Path | None = field(default=None, kw_only=True)
    keeps: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise unknown_name(self.backend, BACKENDS, " as `backend`")

    @property
    def hash(self) -> str:
        """A hash of the cells."""
        content = hashlib.blake2b(np.ascontiguousarray(self.embeddings), digest_size=16)
        for column in (self.labels, self.cells, self.groups):
            content.update(repr(None if column is None else column.tolist()).encode())
        return content.hexdigest()

    def nearest(
        self, embeddings: np.ndarray, k: int, groups: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The cells nearest to each query, the most similar first.

        Args:
            embeddings: (queries, size) in the space of the index; only directions count.
            k: how many cells.
            groups: (queries,) donors or data sets, whose own cells each query does not see; None = it sees all.

        Returns:
            (queries, k) rows of cells and their cosines, of equal ones the lower row first, filled up with `-inf`
            where there are fewer cells.

        Raises:
            ConfigurationError: embeddings have another size, or one has no direction.
            ExpressionError: there is not one group per query.
        """
        embeddings = np.asarray(embeddings, np.float32)
        if embeddings.ndim != 2 or embeddings.shape[1:] != self.embeddings.shape[1:]:
            raise ConfigurationError(
                f"The index holds embeddings of {self.embeddings.shape[1]} numbers; the queries have the shape "
                f"{embeddings.shape}."
            )
        if groups is not None:
            match_length("groups", groups, len(embeddings), "query")
        asked = np.array([None] * len(embeddings) if groups is None else [str(one) for one in groups], object)
        queries = directions(embeddings)
        rows = np.zeros((len(queries), min(k, len(self.cells))), np.int64)
        cosines = np.full(rows.shape, -np.inf, np.float32)
        for group in dict.fromkeys(asked):
            chosen = np.flatnonzero(asked == group)
            found = self._search(queries[chosen], k, group)
            rows[chosen, : found[0].shape[1]], cosines[chosen, : found[1].shape[1]] = found
        return rows, cosines

    def _search(self, queries: np.ndarray, k: int, group: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Rows and cosines of the nearest cells that are not of a group."""
        allowed = None if group is None else np.asarray(self.groups != group, bool)
        k = min(k, len(self.cells) if allowed is None else int(allowed.sum()))
        if not self._has_lists or not k or not len(queries):
            search = _faiss if self.backend == "faiss" else _exact
            return search(self.embeddings, self._fronts, queries, k, allowed)
        rows, cosines = _listed(self._searched, self.embeddings, queries, k, allowed)
        # lists may hold fewer cells
        few = cosines[:, -1] == -np.inf
        if few.any():
            rows[few], cosines[few] = _exact(self.embeddings, self._fronts, queries[few], k, allowed)
        return rows, cosines

    @property
    def _has_lists(self) -> bool:
        return self.backend == "approximate" and len(self.cells) >= _LISTED

    @cached_property
    def _lists(self) -> CellLists:
        kept = None if self.folder is None else read_lists(self.folder, self.embeddings)
        lists = kept or CellLists.of_cells(self.embeddings)
        if kept is None and self.folder is not None and self.keeps:
            keep_lists(self.folder, lists, self.embeddings)
        return lists

    @cached_property
    def _searched(self) -> Any:
        return self._lists.searched(self.embeddings)

    @cached_property
    def _fronts(self) -> "_Fronts":
        return _Fronts.of_cells(self.embeddings)

    def write(self, folder: Path, facts: Mapping[str, Any], **columns: Sequence[Any]) -> None:
        """Write the cells: embeddings, and lists where they are asked for, as safetensors, the rest as Parquet.

        Args:
            folder: an existing folder.
            facts: what [`read_facts`] gives back.
            **columns: (cells,) further columns.

        Raises:
            MissingDependencyError: `pyarrow` is not installed.
        """
        from safetensors.numpy import save_file

        save_file({"embeddings": self.embeddings}, folder / "embeddings.safetensors")
        write_table(folder / "cells.parquet", cell=self.cells, label=self.labels, group=self.groups, **columns)
        if self._has_lists:
            self._lists.write(folder / LISTS, self.embeddings)
        write_text(folder / FACTS, json.dumps(facts, indent=2))


def read_cells(folder: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The embeddings that [`CellIndex.write`] wrote, and its columns by name.

    Raises:
        CheckpointError: the files are missing or damaged, or do not fit one another.
        MissingDependencyError: `pyarrow` is not installed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    require_regular_file(folder / "embeddings.safetensors")
    try:
        embeddings = load_file(folder / "embeddings.safetensors")["embeddings"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(folder, error) from error
    columns = {name: np.array(values, object) for name, values in read_table(folder / "cells.parquet").items()}
    if missing := {"cell", "label"} - columns.keys():
        raise _unreadable(folder, f"`cells.parquet` has no column {missing.pop()!r}")
    for name in {"cell", "label", "group"} & columns.keys():
        if not all(isinstance(one, str) for one in columns[name]):
            raise _unreadable(folder, f"the column {name!r} of `cells.parquet` must hold text for every cell")
    sound = embeddings.ndim == 2 and embeddings.dtype == np.float32 and len(embeddings) == len(columns["label"])
    if not sound or not np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3):
        raise CheckpointError(
            f"The index `{folder}` does not have one finite embedding of length 1 per cell: build it anew."
        )
    return embeddings, columns


def read_facts(folder: Path, format: str) -> dict[str, Any]:
    """The facts of an index.

    Args:
        folder: its folder.
        format: what its facts must say under `"format"`.

    Raises:
        CheckpointError: the folder holds no index of this format.
    """
    facts = read_json_object(folder / FACTS)
    if facts.get("format") != format:
        raise CheckpointError(f"`{folder}` is no index of the format {format!r}: build it anew.")
    return facts


def write_table(path: Path, **columns: Sequence[Any] | None) -> None:
    """Write columns as Parquet; those that are None are left out."""
    pyarrow, parquet = require("pyarrow", extra="corpora"), require("pyarrow.parquet", extra="corpora")
    parquet.write_table(pyarrow.table({name: list(one) for name, one in columns.items() if one is not None}), path)


def read_table(path: Path) -> dict[str, list[Any]]:
    """The columns of a Parquet file by name.

    Raises:
        CheckpointError: it cannot be read.
    """
    pyarrow, parquet = require("pyarrow", extra="corpora"), require("pyarrow.parquet", extra="corpora")
    require_regular_file(path)
    try:
        return parquet.read_table(path).to_pydict()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise _unreadable(path.parent, error) from error


def _unreadable(folder: Path, reason: Any) -> CheckpointError:
    return CheckpointError(f"The index `{folder}` cannot be read: {reason}.")


def directions(embeddings: np.ndarray) -> np.ndarray:
    """(cells, size) embeddings divided by their length.

    Raises:
        ConfigurationError: they have another shape, or one is zero or not finite.
    """
    if embeddings.ndim != 2:
        raise ConfigurationError(f"Embeddings of the shape (cells, size) are needed, got {embeddings.shape}.")
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise ConfigurationError("An embedding is zero or not finite, and has no direction: leave the cell out.")
    return embeddings / lengths


class _Fronts(NamedTuple):
    """A few numbers for each vector, whose products are at least the cosines, and rule out most cells.

    They are the coordinates on orthogonal axes, and the length of the rest: the product of two rests is at most that
    of their lengths (Cauchy and Schwarz).

    Attributes:
        axes: (size, coordinates); None where the vectors stand for themselves.
        cells: (cells, coordinates + 1) of the cells of an index.
    """

    axes: np.ndarray | None
    cells: np.ndarray

    @classmethod
    def of_cells(cls, cells: np.ndarray) -> "_Fronts":
        """On the axes along which cells differ most, where few axes hold nearly all of it."""
        if len(cells) < _SAMPLE:
            return cls(None, cells)
        sample = cells[:: len(cells) // _SAMPLE].astype(np.float64)
        squares, axes = np.linalg.eigh(sample.T @ sample / len(sample))
        spread = 1 - np.square(sample.mean(axis=0)).sum()
        n_left_out = int(np.searchsorted(np.cumsum(squares), _REST * spread))
        if 2 * n_left_out < len(squares):
            return cls(None, cells)
        axes = np.ascontiguousarray(axes[:, n_left_out:], np.float32)
        return cls(axes, _fronts(cells, axes))

    def of(self, queries: np.ndarray) -> np.ndarray:
        """(queries, coordinates + 1)."""
        return queries if self.axes is None else _fronts(queries, self.axes)


def _fronts(vectors: np.ndarray, axes: np.ndarray) -> np.ndarray:
    fronts = np.empty((len(vectors), axes.shape[1] + 1), np.float32)
    for start in range(0, len(vectors), _CELLS):
        part = slice(start, start + _CELLS)
        coordinates = fronts[part, :-1] = vectors[part] @ axes
        rest = 1 - np.square(coordinates, dtype=np.float64).sum(axis=1)
        # what is rounded must not make it less than it is
        fronts[part, -1] = np.sqrt(np.maximum(rest, 0) + _ERROR)
    return fronts


def _exact(
    cells: np.ndarray, fronts: _Fronts, queries: np.ndarray, k: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    rows, cosines = np.zeros((len(queries), k), np.int64), np.zeros((len(queries), k), np.float32)
    for first in range(0, len(queries) if k else 0, _QUERIES):
        part = slice(first, first + _QUERIES)
        rows[part], cosines[part] = _exact_part(cells, fronts, queries[part], k, allowed)
    return rows, cosines


def _exact_part(
    cells: np.ndarray, fronts: _Fronts, queries: np.ndarray, k: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    asking = fronts.of(queries)
    rows, cosines = np.zeros((len(queries), k), np.int64), np.full((len(queries), k), -np.inf, np.float32)
    allowed = np.ones(len(cells), bool) if allowed is None else allowed
    for start in range(0, len(cells), _CELLS):
        bounds = asking @ fronts.cells[start : start + _CELLS].T
        _keep_nearest(bounds, start, queries, cells, allowed, rows, cosines)
    return rows, cosines


# sums in any order, but the same one for all pairs, so that equal vectors have equal cosines
@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _keep_nearest(
    bounds: np.ndarray,
    start: int,
    queries: np.ndarray,
    cells: np.ndarray,
    allowed: np.ndarray,
    rows: np.ndarray,
    cosines: np.ndarray,
) -> None:
    """Compare cells whose bounds reach the k-th cosine so far, and keep the nearest, of equal ones the lower row."""
    last = rows.shape[1] - 1
    for query in range(bounds.shape[0]):
        least = cosines[query, last]
        for place in range(bounds.shape[1]):
            row = start + place
            if bounds[query, place] < least - _ERROR or not allowed[row]:
                continue
            total = 0.0
            for number in range(queries.shape[1]):
                total += np.float64(queries[query, number]) * np.float64(cells[row, number])
            cosine = np.float32(total)
            if cosine <= least:
                continue
            at = last
            while at > 0 and cosines[query, at - 1] < cosine:
                cosines[query, at], rows[query, at] = cosines[query, at - 1], rows[query, at - 1]
                at -= 1
            cosines[query, at], rows[query, at] = cosine, row
            least = cosines[query, last]


def _cosines(cells: np.ndarray, queries: np.ndarray, asked: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(pairs,) cosines of queries and cells."""
    cosines = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _PAIRS):
        part = slice(start, start + _PAIRS)
        # a product of matrices rounds equal vectors differently at different places
        cosines[part] = (queries[asked[part]].astype(np.float64) * cells[rows[part]]).sum(axis=1)
    return cosines


def _best(
    asked: np.ndarray, rows: np.ndarray, cosines: np.ndarray, n_queries: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of (pairs,) candidates of each query; of equal cosines the lower row."""
    order = np.lexsort((rows, -cosines, asked))
    order = order[np.searchsorted(asked[order], np.arange(n_queries))[:, None] + np.arange(k)]
    return rows[order], cosines[order]


def _faiss(
    cells: np.ndarray, fronts: _Fronts, queries: np.ndarray, k: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    faiss = require("faiss", extra="text")
    # where few coordinates rule out most cells, faiss would be slower
    if not k or not len(queries) or fronts.axes is not None:
        return _exact(cells, fronts, queries, k, allowed)
    searched = cells if allowed is None else cells[allowed]
    n_found = min(k + _MORE, len(searched))
    bounds, found = faiss.knn(queries, searched, n_found, metric=faiss.METRIC_INNER_PRODUCT)
    asked = np.repeat(np.arange(len(queries)), n_found)
    found = found.ravel().astype(np.int64)
    found = found if allowed is None else np.flatnonzero(allowed)[found]
    rows, cosines = _best(asked, found, _cosines(cells, queries, asked, found), len(queries), k)
    # cells that were not found may be as near as the last
    is_open = (bounds[:, -1] >= cosines[:, -1] - _ERROR) & (n_found < len(searched))
    rows[is_open], cosines[is_open] = _exact(cells, fronts, queries[is_open], k, allowed)
    return rows, cosines


def _listed(
    lists: Any, cells: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest cells of the lists nearest to each query; a cosine of `-inf` where they hold fewer."""
    asked, rows = np.repeat(np.arange(len(queries)), k), search_lists(lists, queries, k, allowed).ravel()
    cosines = np.where(rows < 0, -np.inf, _cosines(cells, queries, asked, rows)).astype(np.float32)
    return _best(asked, rows, cosines, len(queries), k)
