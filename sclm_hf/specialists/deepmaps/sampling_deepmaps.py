"""Parts of a graph of genes and cells, drawn as the original draws them."""

import numpy as np
from scipy import sparse


class BudgetSampler:
    """Draws parts that grow from genes, nodes with many drawn neighbours first.

    Every drawn node gives each of its neighbours 1 / (number of its neighbours) to its budget; of the nodes with a
    budget some are drawn, with probabilities as the squares of their budgets. Hu et al., The Web Conference 2020.

    Args:
        values: (genes, cells), whose entries are the edges.
        depth: how many times nodes are drawn.
        width: how many of each type each time, and how many neighbours of a node count at most.
    """

    def __init__(self, values: sparse.csr_matrix, depth: int, width: int) -> None:
        self._neighbours = (values, values.T.tocsr())
        self.depth, self.width = depth, width

    def draw(self, n_seeds: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of genes and of cells, ascending; `n_seeds` genes are where it starts."""
        n_genes, n_cells = self._neighbours[0].shape
        drawn = [np.zeros(n_genes, bool), np.zeros(n_cells, bool)]
        budgets = [np.zeros(n_genes), np.zeros(n_cells)]
        seeds = rng.choice(n_genes, min(n_seeds, n_genes), replace=False)
        drawn[0][seeds] = True
        self._give(0, seeds, budgets, rng)
        for _ in range(self.depth):
            for kind in (0, 1):
                budgets[kind][drawn[kind]] = 0
                nodes = self._next(budgets[kind], rng)
                drawn[kind][nodes] = True
                self._give(kind, nodes, budgets, rng)
        return np.flatnonzero(drawn[0]), np.flatnonzero(drawn[1])

    def _give(self, kind: int, nodes: np.ndarray, budgets: list[np.ndarray], rng: np.random.Generator) -> None:
        """Add to the budgets of the neighbours of nodes."""
        matrix = self._neighbours[kind]
        for node in nodes:
            own = matrix.indices[matrix.indptr[node] : matrix.indptr[node + 1]]
            if len(own) > self.width:
                own = rng.choice(own, self.width, replace=False)
            budgets[1 - kind][own] += 1 / max(len(own), 1)

    def _next(self, budget: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The nodes drawn of those with a budget."""
        candidates = np.flatnonzero(budget)
        if len(candidates) <= self.width:
            return candidates
        weights = budget[candidates] ** 2
        return rng.choice(candidates, self.width, replace=False, p=weights / weights.sum())
