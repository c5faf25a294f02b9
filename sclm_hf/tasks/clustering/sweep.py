"""Leiden clusters over resolutions, and how stable they are when cells are left out."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import ConfigurationError, ExpressionError, require
from ...logging import progress_bar

SHARE = 0.8
"""Share of the cells in a subsample."""

_LEAST_RESOLUTION, _MOST_RESOLUTION, _STEPS = 1e-3, 50.0, 30


class Sweep(NamedTuple):
    """Clusters of the same cells at several resolutions.

    Attributes:
        resolutions: (resolutions,).
        codes: (resolutions, cells) the cluster of each cell, 0 being the largest.
        n_clusters: (resolutions,).
        stability: (resolutions,) mean adjusted Rand index between the clusters of all cells and those of subsamples.
        chosen: which of the resolutions is the most stable among those with several clusters; the lowest of equals.
    """

    resolutions: np.ndarray
    codes: np.ndarray
    n_clusters: np.ndarray
    stability: np.ndarray
    chosen: int


def check_embedding(embedding: np.ndarray, what: str) -> None:
    """Refuse embeddings that tell no cells apart.

    Args:
        embedding: (cells, size).
        what: what they are called.

    Raises:
        ExpressionError: they have another shape, are not finite, or are the same for all cells.
    """
    if embedding.ndim != 2 or not embedding.size:
        raise ExpressionError(f"{what} must hold numbers of the shape (cells, size), got {embedding.shape}.")
    if embedding.dtype.kind not in "fiu":
        raise ExpressionError(f"{what} must hold numbers, got {embedding.dtype}.")
    if not (finite := np.isfinite(embedding).all(axis=1)).all():
        raise ExpressionError(
            f"{what} holds NaN or infinite values for {(~finite).sum():,} of {len(finite):,} cells, such as the one "
            f"in row {finite.argmin()}: leave these cells out."
        )
    if (np.ptp(embedding, axis=0) == 0).all():
        raise ExpressionError(f"{what} is the same for all {len(embedding):,} cells: it tells none of them apart.")


def check_sizes(n_cells: int, n_neighbours: int, n_clusters: int | None) -> None:
    """Refuse too few cells.

    Raises:
        ConfigurationError: a subsample has no more cells than neighbours are asked for, or there are fewer cells than
            clusters.
    """
    if n_clusters is not None and n_clusters > n_cells:
        raise ConfigurationError(
            f"`n_clusters` (`--n-clusters`) asks for {n_clusters:,} clusters of {n_cells:,} cells: ask for fewer."
        )
    if int(SHARE * n_cells) <= n_neighbours:
        raise ConfigurationError(
            f"{n_cells:,} cells are too few for `n_neighbours={n_neighbours}` (`--n-neighbours`), which must be below "
            f"{SHARE:.0%} of them: cells are left out to see how stable clusters are."
        )


def sweep(
    embedding: np.ndarray,
    resolutions: Sequence[float],
    *,
    n_neighbours: int,
    n_subsamples: int,
    n_clusters: int | None = None,
    asked_by: str = "`n_clusters` (`--n-clusters`)",
    seed: int = 0,
) -> Sweep:
    """Cluster cells at each resolution, and again without a fifth of them.

    Args:
        embedding: (cells, size); neighbours are the nearest by Euclidean distance.
        resolutions: resolutions of Leiden's modularity.
        n_neighbours: neighbours of each cell in the graph.
        n_subsamples: how many subsamples of 80 % of the cells are clustered anew, neighbours included.
        n_clusters: instead of `resolutions`, one is looked for that gives as many clusters.
        asked_by: the setting that asks for as many, for messages.
        seed: seed of the neighbours, the clusters and the subsamples.

    Raises:
        ConfigurationError: no resolution gives as many clusters.
        MissingDependencyError: scanpy or igraph is not installed.
    """
    graph = _graph(embedding, n_neighbours, seed)
    if n_clusters is not None:
        resolutions = [_resolution_for(graph, n_clusters, seed, asked_by)]
    codes = np.stack([_leiden(graph, one, seed) for one in resolutions])
    counts = codes.max(axis=1) + 1
    stability = _stability(embedding, codes, resolutions, n_neighbours, n_subsamples, seed)
    chosen = int(np.where((counts > 1) | (counts.max() == 1), stability, -np.inf).argmax())
    return Sweep(np.asarray(resolutions, float), codes, counts, stability, chosen)


def _stability(
    embedding: np.ndarray,
    codes: np.ndarray,
    resolutions: Sequence[float],
    n_neighbours: int,
    n_subsamples: int,
    seed: int,
) -> np.ndarray:
    metrics = require("sklearn.metrics", extra="evaluation")
    found = np.zeros((n_subsamples, len(resolutions)))
    rng = np.random.default_rng(seed)
    for number in progress_bar(range(n_subsamples), desc="subsamples", unit="subsample"):
        rows = np.sort(rng.choice(len(embedding), int(SHARE * len(embedding)), replace=False))
        graph = _graph(embedding[rows], n_neighbours, seed)
        for place, resolution in enumerate(resolutions):
            again = _leiden(graph, resolution, seed)
            found[number, place] = metrics.adjusted_rand_score(codes[place, rows], again)
    return found.mean(axis=0)


def _graph(embedding: np.ndarray, n_neighbours: int, seed: int) -> Any:
    """An AnnData with scanpy's graph of neighbours."""
    scanpy, anndata = require("scanpy", extra="evaluation"), require("anndata", extra="anndata")
    cells = anndata.AnnData(obsm={"embedding": np.asarray(embedding, np.float32)})
    with _quietly():
        scanpy.pp.neighbors(cells, n_neighbors=n_neighbours, use_rep="embedding", random_state=seed)
    return cells


def _leiden(graph: Any, resolution: float, seed: int) -> np.ndarray:
    """(cells,) the cluster of each cell, the largest being 0."""
    scanpy = require("scanpy", extra="evaluation")
    require("igraph", extra="evaluation")
    with _quietly():
        scanpy.tl.leiden(
            graph, resolution=resolution, random_state=seed, flavor="igraph", n_iterations=2, directed=False
        )
    codes = graph.obs["leiden"].to_numpy().astype(int)
    return np.argsort(np.argsort(-np.bincount(codes), kind="stable"))[codes]


def _resolution_for(graph: Any, n_clusters: int, seed: int, asked_by: str) -> float:
    """A resolution that gives as many clusters, found by bisection of its logarithm."""
    low, high, seen = np.log(_LEAST_RESOLUTION), np.log(_MOST_RESOLUTION), set()
    for _ in range(_STEPS):
        resolution = float(np.exp((low + high) / 2))
        found = int(_leiden(graph, resolution, seed).max()) + 1
        if found == n_clusters:
            return resolution
        seen.add(found)
        low, high = (np.log(resolution), high) if found < n_clusters else (low, np.log(resolution))
    nearest = sorted(seen, key=lambda one: abs(one - n_clusters))[:2]
    raise ConfigurationError(
        f"No resolution gives {n_clusters} clusters; {' and '.join(map(str, sorted(nearest)))} are near: ask for "
        f"these with {asked_by}, or leave it out."
    )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without warnings of scanpy about its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
