"""What CIForm reads: log-normalised expression of variable genes."""

from dataclasses import dataclass

from ..classifying import LogExpressionProcessor


@dataclass
class CIFormProcessor(LogExpressionProcessor):
    """Log-normalised expression of the most variable genes, (cells, genes).

    The original chose them over training cells and those to annotate together; here those to annotate are not seen.

    Attributes:
        n_top_genes: how many genes a new model reads, at most.
        target_sum: counts per cell before the logarithm.
    """
