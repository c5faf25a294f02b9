"""What T-GEM reads: log-normalised expression of variable genes."""

from dataclasses import dataclass

from ..classifying import LogExpressionProcessor


@dataclass
class TGEMProcessor(LogExpressionProcessor):
    """Log-normalised expression of the most variable genes, (cells, genes).

    Time and memory grow with the square of the number of genes.

    Attributes:
        n_top_genes: how many genes a new model reads, at most.
        target_sum: counts per cell before the logarithm.
    """

    n_top_genes: int = 1000
