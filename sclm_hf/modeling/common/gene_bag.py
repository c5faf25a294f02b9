"""A linear path beside an encoder: each gene of a cell adds to the logits in proportion to its value.

The attribute `linear_beside` of the configuration, which every family takes, says whether a classifier of cells has
one. It starts at zero, so that a model with a new one gives the logits that it gave before.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

CELL_NORM = 4.0
"""What the L2 norm of a cell's values is made: whatever the encoding, a step moves the logits about equally far."""


def has_gene_bag(config: PreTrainedConfig) -> bool:
    """Whether a classifier of cells has a linear path beside its encoder."""
    return bool(getattr(config, "linear_beside", False))


class GeneBag(nn.Module):
    """Weights of genes, (genes, labels); the logits of a cell are their sum over its genes, each times its value.

    Args:
        n_genes: rows of the gene table.
        n_labels: number of labels.
    """

    def __init__(self, n_genes: int, n_labels: int):
        super().__init__()
        # no embedding, which families draw at random
        self.weight = nn.Parameter(torch.zeros(n_genes, n_labels))

    def forward(
        self, input_ids: Tensor | None = None, expression_values: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """(cells, labels) logits.

        Args:
            input_ids: `(cells, genes)`; or `(genes,)` for all cells of a sample, in their order by default.
            expression_values: `(cells, genes)`, 1 by default.
            mask: `(cells, genes)`, 1 at real positions; of other shape where tokens are cells, which is ignored.
        """
        if expression_values is None:
            expression_values = torch.ones_like(input_ids, dtype=self.weight.dtype)
        values = expression_values.to_dense() if expression_values.is_sparse else expression_values
        # counts, bins and z-scores alike: a gene that is expressed ten times as much counts a few times as much
        values = values.float().sign() * values.float().abs().log1p()
        if mask is not None and mask.shape == values.shape:
            values = values.masked_fill(mask == 0, 0.0)
        values = CELL_NORM * F.normalize(values, dim=-1)
        if input_ids is None or input_ids.ndim == 1:
            return values @ (self.weight if input_ids is None else self.weight[input_ids]).float()
        return weighted_rows(self.weight.float(), input_ids, values)


def weighted_rows(table: Tensor, ids: Tensor, values: Tensor) -> Tensor:
    """(cells, columns) sums of rows of a table, each times its value.

    Args:
        table: `(rows, columns)`.
        ids: `(cells, genes)`, rows of the table.
        values: `(cells, genes)`, of the table's dtype.
    """
    if torch.compiler.is_exporting():
        # in a program, a bag refuses a single cell
        return (values.unsqueeze(1) @ F.embedding(ids, table)).squeeze(1)
    return F.embedding_bag(ids, table, per_sample_weights=values, mode="sum")
