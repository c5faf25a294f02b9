"""One embedding of both modalities."""

import numpy as np

from ...errors import require
from ...evaluation.integration.neighbours import label_purity


def joint_embedding(embedding: np.ndarray, values: np.ndarray, n_components: int, seed: int) -> dict[str, np.ndarray]:
    """Embeddings of RNA, of the other modality (principal components), and of both.

    Each is whitened and divided by the root of its size, so that both have a total variance of 1, and put side by
    side; principal components of that are the joint embedding.

    Args:
        embedding: (n_cells, size) of RNA.
        values: (n_cells, n_features) of the other modality.
        n_components: components of each, and of both; fewer where there are fewer dimensions.
        seed: seed of the solver.

    Returns:
        `rna`, `other` and `joint`: (n_cells, components) float32.
    """
    blocks = [_components(each, n_components, seed, whiten=True) for each in (embedding, values)]
    beside = np.hstack([block / np.sqrt(block.shape[1]) for block in blocks])
    joint = _components(beside, n_components, seed, whiten=False)
    return {"rna": embedding, "other": blocks[1], "joint": joint.astype(np.float32)}


def neighbour_agreement(embeddings: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Share of the 10 nearest cells that have the label of a cell, mean over labels; cells of -1 are left out."""
    return {name: label_purity(each, labels) for name, each in embeddings.items()}


def _components(values: np.ndarray, n_components: int, seed: int, *, whiten: bool) -> np.ndarray:
    """(n_cells, components) principal components without those that hold no variance."""
    decomposition = require("sklearn.decomposition", extra="evaluation")
    values = np.asarray(values, np.float64)
    rank = int(np.linalg.matrix_rank(values - values.mean(axis=0), tol=None))
    fitted = decomposition.PCA(min(n_components, max(rank, 1)), svd_solver="full", whiten=whiten, random_state=seed)
    return fitted.fit_transform(values)
