"""What an integrated embedding has to beat, and what stands for cell types where there are no labels."""

from typing import Any

import numpy as np

from ...errors import require
from ..baselines.baseline import log1p_cp10k
from ..baselines.linear import PCALogisticRegression

_CELLS_A_CLUSTER, _FEWEST_CLUSTERS, _MOST_CLUSTERS = 25, 2, 10


def principal_components(counts: Any, *, n_components: int = 50, n_genes: int = 2000, seed: int = 0) -> np.ndarray:
    """(n_cells, components) principal components of the log-normalised counts of the most variable genes.

    Args:
        counts: (n_cells, n_genes) counts.
        n_components: components; fewer where there are fewer genes or cells.
        n_genes: most variable genes; all where there are fewer.
        seed: seed of the solver.

    Raises:
        ExpressionError: values are negative or not finite, or a cell has none.
    """
    fitted = PCALogisticRegression(n_components=n_components, n_genes=n_genes, seed=seed)
    return fitted.fit_projection(log1p_cp10k(counts))


def clusters_within(counts: Any, batches: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """(n_cells,) clusters of the cells of each batch by themselves, which no difference between batches makes.

    Clusters of different batches have different numbers. They are those of k-means on 20 principal components, one for
    25 cells, at least 2 and at most 10 in each batch.

    Args:
        counts: (n_cells, n_genes) counts.
        batches: (n_cells,) numbers of batches.
        seed: seed of PCA and k-means.
    """
    cluster = require("sklearn.cluster", extra="evaluation")
    clusters, n_clusters = np.zeros(len(batches), np.int64), 0
    for batch in np.unique(batches):
        cells = np.flatnonzero(batches == batch)
        number = int(np.clip(len(cells) // _CELLS_A_CLUSTER, _FEWEST_CLUSTERS, _MOST_CLUSTERS))
        components = principal_components(counts[cells], n_components=20, seed=seed)
        clusters[cells] = cluster.KMeans(number, n_init=10, random_state=seed).fit_predict(components) + n_clusters
        n_clusters += number
    return clusters
