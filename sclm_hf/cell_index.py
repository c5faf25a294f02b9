"""Labelled cells, and those nearest to a query by the cosine of any cell embedding; in memory and on disk."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CheckpointError, ConfigurationError, require, unknown_name
from .files import read_json_object, require_regular_file, write_text
from .tokenization.expression_matrix import match_length

BACKENDS = ("exact", "faiss")
FACTS = "index.json"
_QUERIES, _CELLS = 1024, 2**15
"""How many queries are compared with how many cells at a time, so that the cosines take 128 MB."""

_ERROR = 4e-6
"""Cosines of a product of float32 matrices that differ by less may be equal."""

_MORE = 64
"""So many more cells than asked for are taken from faiss, to see those as near as the last."""


@dataclass
class CellIndex:
    """Labelled cells that can be searched.

    Attributes:
        embeddings: (cells, size) float32 of length 1, see [`directions`].
        labels: (cells,) their labels.
        cells: (cells,) their names.
        groups: (cells,) the donor or data set of each, or None.
        backend: `"exact"` compares with every cell in numpy; `"faiss"` does the same in faiss, which is faster.

    Raises:
        ConfigurationError: there is no such `backend`.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    cells: np.ndarray
    groups: np.ndarray | None = None
    backend: str = "exact"

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
        if group is None:
            return _BY_BACKEND[self.backend](self.embeddings, queries, min(k, len(self.cells)))
        allowed = np.flatnonzero(self.groups != group)
        places, cosines = _BY_BACKEND[self.backend](self.embeddings[allowed], queries, min(k, len(allowed)))
        return allowed[places], cosines

    def write(self, folder: Path, facts: Mapping[str, Any], **columns: Sequence[Any]) -> None:
        """Write the cells: embeddings as safetensors, the rest as Parquet, facts as JSON.

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


def _exact(cells: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    rows, cosines = np.zeros((len(queries), k), np.int64), np.zeros((len(queries), k), np.float32)
    for first in range(0, len(queries) if k else 0, _QUERIES):
        part = slice(first, first + _QUERIES)
        rows[part], cosines[part] = _exact_part(cells, queries[part], k)
    return rows, cosines


def _exact_part(cells: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    rows, cosines = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(cells), _CELLS):
        scores = queries @ cells[start : start + _CELLS].T
        n_best = min(k, start + scores.shape[1])
        bound = np.partition(np.hstack([cosines, scores]), -n_best, axis=1)[:, -n_best, None]
        asked, places = np.nonzero(scores >= bound - _ERROR)
        asked = np.concatenate([np.repeat(np.arange(len(queries)), rows.shape[1]), asked])
        rows, cosines = _ranked(cells, queries, asked, np.concatenate([rows.ravel(), places + start]), n_best)
    return rows, cosines


def _ranked(
    cells: np.ndarray, queries: np.ndarray, asked: np.ndarray, rows: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of (pairs,) candidates of each query; of equal cosines the lower row."""
    cosines = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _CELLS):
        part = slice(start, start + _CELLS)
        # a product of matrices rounds equal vectors differently at different places
        cosines[part] = (queries[asked[part]].astype(np.float64) * cells[rows[part]]).sum(axis=1)
    order = np.lexsort((rows, -cosines, asked))
    order = order[np.searchsorted(asked[order], np.arange(len(queries)))[:, None] + np.arange(k)]
    return rows[order], cosines[order]


def _faiss(cells: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    faiss = require("faiss", extra="text")
    if not k or not len(queries):
        return _exact(cells, queries, k)
    n_found = min(k + _MORE, len(cells))
    scores, found = faiss.knn(queries, cells, n_found, metric=faiss.METRIC_INNER_PRODUCT)
    asked = np.repeat(np.arange(len(queries)), n_found)
    rows, cosines = _ranked(cells, queries, asked, found.ravel().astype(np.int64), k)
    # more cells than were found may be as near as the last
    is_open = (scores[:, -1] >= scores[:, k - 1] - _ERROR) & (n_found < len(cells))
    rows[is_open], cosines[is_open] = _exact(cells, queries[is_open], k)
    return rows, cosines


_BY_BACKEND = {"exact": _exact, "faiss": _faiss}
