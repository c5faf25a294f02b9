"""Edges between genes, or between proteins, and where these are in their graph."""

from pathlib import Path
from typing import Any

import numpy as np

from sclm_hf.errors import ConfigurationError, require


def read_edges(table: Any, names: list[str], what: str) -> list[list[float]]:
    """Source, target and weight of the edges of a table between nodes of these names, both ways.

    Args:
        table: a table, or a `.csv` or `.tsv` file, with the columns `source`, `target` and maybe `weight`; None = no
            edges.
        names: names of the nodes.
        what: what to call the table in messages.

    Raises:
        ConfigurationError: it cannot be read, lacks a column, holds weights that are no numbers above 0, or has no
            edge between these nodes.
    """
    if table is None:
        return []
    if isinstance(table, str | Path):
        table = _read_file(Path(table), what)
    if missing := [name for name in ("source", "target") if name not in getattr(table, "columns", ())]:
        raise ConfigurationError(
            f"`{what}` must be a table with the columns `source` and `target`, and maybe `weight`; it lacks "
            f"{' and '.join(map(repr, missing))}."
        )
    weights = np.ones(len(table)) if "weight" not in table.columns else np.asarray(table["weight"])
    if weights.dtype.kind not in "iuf" or not (np.isfinite(weights) & (weights > 0)).all():
        raise ConfigurationError(f"The weights of `{what}` must be finite numbers above 0.")
    place = {name: number for number, name in enumerate(names)}
    found = {}
    for source, target, weight in zip(table["source"], table["target"], weights, strict=True):
        ends = place.get(str(source)), place.get(str(target))
        if None not in ends and ends[0] != ends[1]:
            found[ends] = found[ends[::-1]] = float(weight)
    if not found:
        raise ConfigurationError(
            f"`{what}` has no edge between the names of the data, which are like {names[0]!r}: name both alike."
        )
    return [[source, target, weight] for (source, target), weight in sorted(found.items())]


def _read_file(file: Path, what: str) -> Any:
    pandas = require("pandas", extra="anndata")
    if not file.is_file():
        raise ConfigurationError(f"`{what}`: there is no file `{file}`.")
    try:
        return pandas.read_csv(file, sep="\t" if ".tsv" in file.suffixes else ",")
    except (ValueError, OSError) as error:
        raise ConfigurationError(
            f"`{what}`: `{file}` cannot be read as a table with the columns `source` and `target`: {error}"
        ) from error


def edge_arrays(edges: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """(2, edges) int64 sources above targets, and (edges,) float32 weights."""
    array = np.array(edges, np.float64).reshape(-1, 3)
    return array[:, :2].T.astype(np.int64), array[:, 2].astype(np.float32)


def random_walk_positions(edge_index: np.ndarray, weights: np.ndarray, n_nodes: int, n_steps: int) -> np.ndarray:
    """(nodes, n_steps) float32, how likely a walk along weighted edges is back after 1, 2, … steps; 0 without edges.

    Dwivedi et al., Graph neural networks with learnable structural and positional representations. ICLR 2022.
    """
    positions = np.zeros((n_nodes, n_steps), np.float32)
    if not edge_index.shape[1]:
        return positions
    steps = np.zeros((n_nodes, n_nodes), np.float32)
    steps[edge_index[0], edge_index[1]] = weights
    steps /= np.maximum(steps.sum(axis=1, keepdims=True), 1e-12)
    walk = np.eye(n_nodes, dtype=np.float32)
    for number in range(n_steps):
        walk = walk @ steps
        positions[:, number] = np.diagonal(walk)
    return positions
