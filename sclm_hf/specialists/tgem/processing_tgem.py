"""What T-GEM reads: log-normalised expression of variable genes."""

from dataclasses import dataclass

import numpy as np

from ..cells import Counts, highly_variable
from ..classifying import ExpressionProcessor


@dataclass
class TGEMProcessor(ExpressionProcessor):
    """Log-normalised expression of the most variable genes, (cells, genes).

    Time and memory grow with the square of the number of genes.

    Attributes:
        n_top_genes: how many genes a new model reads, at most.
        target_sum: counts per cell before the logarithm.
    """

    n_top_genes: int = 1000
    target_sum: float = 1e4

    def choose_genes(self, counts: Counts) -> list[str]:
        return highly_variable(counts, self.n_top_genes, self.target_sum)

    def values(self, counts: Counts) -> np.ndarray:
        return counts.log_normalized(self.target_sum).toarray()
