"""The genes and peaks of a step of MarsGT."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse


def draw_features(
    counts: sparse.csr_matrix,
    rows: np.ndarray,
    draws: Sequence[np.random.Generator],
    n_drawn: int,
    least_count: int = 0,
    leaves_out_own_number: bool = False,
) -> np.ndarray:
    """Numbers, ascending, of all that is drawn for any of the cells, of what they have counts of.

    Each is drawn without replacement with a probability as 1 + counts, the softmax of their logarithms.

    Args:
        counts: (cells, genes or peaks).
        rows: numbers of the cells.
        draws: a generator for each.
        n_drawn: how many are drawn for each, at most.
        least_count: fewer counts count as 0.
        leaves_out_own_number: whether that whose number is the cell's is never drawn, as in the published code, which
            also mixes up the probabilities of the others with its sets.
    """
    found = []
    for row, rng in zip(rows, draws, strict=True):
        part = slice(counts.indptr[row], counts.indptr[row + 1])
        own, values = counts.indices[part], counts.data[part]
        if leaves_out_own_number:
            values, own = values[own != row], own[own != row]
        if len(own) > n_drawn:
            weights = 1 + np.where(values < least_count, 0, values).astype(np.float64)
            own = rng.choice(own, n_drawn, replace=False, p=weights / weights.sum())
        found.append(own)
    return np.unique(np.concatenate(found))
