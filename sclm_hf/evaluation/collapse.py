"""How far embeddings tell cells apart: a collapsed model gives nearly the same vector to all of them."""

from typing import Any, NamedTuple

import numpy as np

MOST_CELLS = 1000
"""So many cells are looked at; those whose ids are smallest, whatever the order of the cells."""

FEWEST_CELLS = 50
"""Fewer cells say little: two always lie on one line."""

MOST_COSINE, MOST_SHARE = 0.99, 0.7
"""Above these, the embeddings are those of a collapsed model."""


class Collapse(NamedTuple):
    """How alike the embeddings of cells are.

    Attributes:
        mean_cosine: mean cosine similarity of two different cells, over all pairs; NaN with fewer than two cells that
            have a direction. A vector of zeros has none.
        top_variance_share: share of the variance that lies along one direction, the first principal component; 1 where
            there is no variance at all.
        effective_rank: number of directions over which the variance is spread, the exponential of the entropy of its
            shares (Roy and Vetterli, EUSIPCO 2007); 1 where there is no variance at all.
        n_cells: cells that were looked at.
    """

    mean_cosine: float
    top_variance_share: float
    effective_rank: float
    n_cells: int

    @property
    def signs(self) -> set[str]:
        """Which of the numbers are those of a collapsed model; none with fewer than `FEWEST_CELLS`."""
        most = {"mean_cosine": MOST_COSINE, "top_variance_share": MOST_SHARE}
        return {name for name in most if self.n_cells >= FEWEST_CELLS and getattr(self, name) > most[name]}

    @property
    def is_likely(self) -> bool:
        """Whether this is what a collapsed model looks like."""
        return bool(self.signs)

    def to_dict(self) -> dict[str, Any]:
        """The numbers, by name."""
        return self._asdict()

    def __str__(self) -> str:
        return (
            f"mean cosine between cells {self.mean_cosine:.3f}, share of their variance along one direction "
            f"{self.top_variance_share:.1%}, effective rank {self.effective_rank:.1f}"
        )


def measure_collapse(embeddings: np.ndarray) -> Collapse:
    """How alike embeddings are.

    Args:
        embeddings: (n_cells, size), all of which are looked at.
    """
    vectors = np.asarray(embeddings, np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    directions = vectors[norms > 0] / norms[norms > 0, None]
    n_pairs = len(directions) * (len(directions) - 1)
    # the squared length of a sum of unit vectors: all their cosines, and 1 for each with itself
    total = np.square(directions.sum(axis=0)).sum() - len(directions)
    centred = vectors - vectors.mean(axis=0)
    # the smaller of the two products that have the same eigenvalues
    product = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    variance, along = np.trace(product), np.linalg.eigvalsh(product)
    # what rounding leaves of equal vectors is no variance
    varies = variance > 1e-12 * np.square(norms).sum()
    shares = along[along > 0] / along[along > 0].sum() if varies else np.ones(1)
    return Collapse(
        mean_cosine=float(total / n_pairs) if n_pairs else float("nan"),
        top_variance_share=float(along[-1] / variance) if varies else 1.0,
        effective_rank=float(np.exp(-(shares * np.log(shares)).sum())),
        n_cells=len(vectors),
    )


class CollapseMeter:
    """Measures embeddings that come block by block, in any order.

    Args:
        cell_ids: (n_cells,) uint64 hashes of the cells' names, which choose those that are looked at.
        part: the cells that are measured; by default all.
    """

    def __init__(self, cell_ids: np.ndarray, part: slice = slice(None)) -> None:
        chosen = np.argsort(cell_ids[part], kind="stable")[:MOST_CELLS]
        self._chosen = np.arange(len(cell_ids))[part][chosen]
        self._place = np.full(len(cell_ids), -1)
        self._place[self._chosen] = np.arange(len(self._chosen))
        self._vectors: np.ndarray | None = None

    def add(self, cells: "slice | np.ndarray", embeddings: np.ndarray) -> None:
        """Take in the (cells, size) embeddings of some cells, given by their numbers."""
        if self._vectors is None:
            self._vectors = np.zeros((len(self._chosen), embeddings.shape[1]), embeddings.dtype)
        place = self._place[cells]
        self._vectors[place[place >= 0]] = embeddings[place >= 0]

    def measure(self) -> Collapse:
        """How alike the embeddings are, once all that are measured were taken in."""
        return measure_collapse(self._vectors)
