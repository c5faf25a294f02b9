"""Labelled cells, and those nearest to a query by the cosine of any cell embedding; in memory and on disk."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CheckpointError, ConfigurationError, require, unknown_name
from .files import read_json_object, write_text
from .tokenization.expression_matrix import match_length

BACKENDS = ("exact", "faiss")
FACTS = "index.json"
_QUERIES, _CELLS = 1024, 2**15
"""How many queries are compared with how many cells at a time, so that the cosines take 128 MB."""


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
            (queries, k) rows of cells and their cosines, filled up with `-inf` where there are fewer cells.

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

    try:
        embeddings = load_file(folder / "embeddings.safetensors")["embeddings"]
    except (OSError, SafetensorError, KeyError) as error:
        raise _unreadable(folder, error) from error
    columns = {name: np.array(values, object) for name, values in read_table(folder / "cells.parquet").items()}
    if missing := {"cell", "label"} - columns.keys():
        raise _unreadable(folder, f"`cells.parquet` has no column {missing.pop()!r}")
    sound = embeddings.ndim == 2 and embeddings.dtype == np.float32 and len(embeddings) == len(columns["label"])
    if not sound or not np.isfinite(embeddings).all():
        raise CheckpointError(f"The index `{folder}` does not have one finite embedding per cell: build it anew.")
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
    rows, cosines = np.zeros((len(queries), k), np.int64), np.full((len(queries), k), -np.inf, np.float32)
    for first in range(0, len(queries) if k else 0, _QUERIES):
        part = slice(first, first + _QUERIES)
        for start in range(0, len(cells), _CELLS):
            scores = queries[part] @ cells[start : start + _CELLS].T
            places = _best(scores, k)
            candidates = np.hstack([rows[part], places + start])
            similar = np.hstack([cosines[part], np.take_along_axis(scores, places, axis=1)])
            order = np.argsort(-similar, axis=1, kind="stable")[:, :k]
            rows[part], cosines[part] = (np.take_along_axis(one, order, axis=1) for one in (candidates, similar))
    return rows, cosines


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """(queries, at most k) places of the highest scores, ascending."""
    if k >= scores.shape[1]:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)


def _faiss(cells: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    faiss = require("faiss", extra="text")
    if not k:
        return np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    cosines, rows = faiss.knn(queries, cells, k, metric=faiss.METRIC_INNER_PRODUCT)
    return rows, cosines


_BY_BACKEND = {"exact": _exact, "faiss": _faiss}
