"""The clusters that MarsGT starts from, and their numbers."""

import numpy as np

from sclm_hf.errors import require

from ..cells import Counts

N_COMPONENTS = 40
BY_SIZE = ((500, 5, 0.2), (5000, 10, 0.5), (float("inf"), 15, 0.8))
"""Up to so many cells: neighbours, and resolution of Leiden."""


def initial_clusters(counts: Counts, n_neighbours: int | None = None, resolution: float | None = None) -> np.ndarray:
    """(cells,) int64, Leiden on neighbours in principal components of log-normalised counts.

    Args:
        counts: RNA.
        n_neighbours: neighbours of each cell; by default by the number of cells, as published.
        resolution: of Leiden; by default as published.
    """
    scanpy, anndata = require("scanpy", extra="anndata"), require("anndata", extra="anndata")
    require("igraph", extra="evaluation")
    n_cells = counts.matrix.shape[0]
    published = next(one for one in BY_SIZE if n_cells <= one[0])
    n_neighbours = published[1] if n_neighbours is None else n_neighbours
    resolution = published[2] if resolution is None else resolution
    values = anndata.AnnData(counts.log_normalized(1e4))
    scanpy.pp.pca(values, n_comps=min(N_COMPONENTS, *(size - 1 for size in values.shape)), random_state=0)
    scanpy.pp.neighbors(values, n_neighbors=min(n_neighbours, n_cells - 1), random_state=0)
    scanpy.tl.leiden(values, resolution=resolution, flavor="igraph", n_iterations=2, random_state=0)
    return values.obs["leiden"].to_numpy().astype(np.int64)


def numbered_by_size(codes: np.ndarray) -> np.ndarray:
    """(cells,) int64, the same clusters, of which the largest is 0."""
    numbers, where, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    rank = np.empty(len(numbers), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(numbers))
    return rank[where]
