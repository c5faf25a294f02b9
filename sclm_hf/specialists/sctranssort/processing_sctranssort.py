"""What scTransSort reads: expression of variable genes, which the model lays out as an image."""

from dataclasses import dataclass

import numpy as np

from ..cells import Counts, highly_variable
from ..classifying import ExpressionProcessor


@dataclass
class ScTransSortProcessor(ExpressionProcessor):
    """Expression of the most variable genes, (cells, genes).

    The original took counts as they are; here they are log-normalised unless told otherwise, so that a cell's depth of
    sequencing does not make its image brighter.

    Attributes:
        n_top_genes: how many genes a new model reads, at most.
        target_sum: counts per cell before the logarithm; None = counts as they are.
    """

    n_top_genes: int = 2000
    target_sum: float | None = 1e4

    def choose_genes(self, counts: Counts) -> list[str]:
        return highly_variable(counts, self.n_top_genes, self.target_sum or 1e4)

    def values(self, counts: Counts) -> np.ndarray:
        return (counts.matrix if self.target_sum is None else counts.log_normalized(self.target_sum)).toarray()
