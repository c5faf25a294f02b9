"""Integration of batches: embeddings that tell what a cell is, and not where it comes from.

Source: Cui et al., scGPT, Nature Methods 21 (2024), the fine-tuning for batch integration, of which these losses are
for any encoder: GEPC (expression predicted from the cell embedding, the batch being told), ECS (elastic cell
similarity) and DAR (a classifier of batches behind a gradient reversal). Where the encoder has domain-specific batch
normalisation, the cells of each batch go through it by themselves. Labels, where there are some, are told from the
cell embedding.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ..modeling.common.losses import IGNORE, elastic_cell_similarity, reverse_gradient
from ..opening.kinds import inner_model
from .collation import CellCollator, require_column
from .supervised import expression_targets


@dataclass
class IntegrationCollator(CellCollator):
    """Hands the batch on without `cell_ids`, its `labels` as `label_numbers`, which the loss need not have."""

    narrow = True

    def collate(self, batch: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
        require_column(batch, "batch_labels", "integration needs to know the batch of each cell")
        inputs = {name: values for name, values in batch.items() if name not in ("cell_ids", "labels")}
        return inputs | ({"label_numbers": batch["labels"]} if "labels" in batch else {})


@dataclass(frozen=True)
class IntegrationWeights:
    """What each loss counts.

    Published for integration are 10 for `similarity` and 1 for `adversary`.

    Attributes:
        expression: of the values of genes predicted from the cell embedding (GEPC).
        similarity: of the elastic cell similarity (ECS).
        similarity_threshold: cosine from which cells are drawn together, and below which they are driven apart.
        adversary: of the batch told from the cell embedding, whose gradient is reversed.
        labels: of the labels told from the cell embedding.
    """

    expression: float = 1.0
    similarity: float = 1.0
    similarity_threshold: float = 0.8
    adversary: float = 0.1
    labels: float = 1.0


class BatchIntegration(nn.Module):
    """An encoder of cells, and the heads that its embedding is trained with; only the encoder is saved.

    Args:
        encoder: the model that is trained and saved, with or without PEFT around it.
        num_batches: number of batches.
        num_labels: number of labels; 0 = there are none.
        weights: what each loss counts.
        special_token_ids: tokens that are no genes.
    """

    # it compares the rows of a batch, whose mean is the loss
    accepts_loss_kwargs = False

    def __init__(
        self,
        encoder: nn.Module,
        num_batches: int,
        num_labels: int = 0,
        weights: IntegrationWeights = IntegrationWeights(),
        special_token_ids: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.encoder, self.weights = encoder, weights
        base: PreTrainedModel = inner_model(encoder).base_model
        size = base.config.cell_embedding_size
        with torch.no_grad():
            gene_size = base.embed_genes(torch.zeros(1, dtype=torch.long, device=base.device)).shape[-1]
        self.decoder = ExpressionFromCell(size, gene_size, num_batches) if weights.expression else None
        self.discriminator = Discriminator(size, num_batches) if weights.adversary else None
        self.classifier = nn.Linear(size, num_labels) if num_labels and weights.labels else None
        self.register_buffer("special", torch.tensor(special_token_ids, dtype=torch.long), persistent=False)

    @property
    def kept(self) -> nn.Module:
        """What is saved."""
        return self.encoder

    def forward(self, batch_labels: Tensor, label_numbers: Tensor | None = None, **inputs: Any) -> ModelOutput:
        """The loss, and the cell embedding `(cells, size)`.

        Args:
            batch_labels: `(cells,)` numbers of batches.
            label_numbers: `(cells,)` numbers of labels, -100 where there is none.
            **inputs: those of the encoder.
        """
        cell = self._embed(batch_labels, inputs)
        loss = cell.new_zeros((), dtype=torch.float32)
        if self.weights.similarity:
            loss = self.weights.similarity * elastic_cell_similarity(cell, self.weights.similarity_threshold)
        if self.decoder is not None:
            loss = loss + self.weights.expression * self._expression_loss(cell, batch_labels, **inputs)
        if self.discriminator is not None:
            told = self.discriminator(reverse_gradient(cell))
            loss = loss + self.weights.adversary * F.cross_entropy(told.float(), batch_labels)
        if self.classifier is not None and label_numbers is not None and (label_numbers != IGNORE).any():
            told = F.cross_entropy(self.classifier(cell).float(), label_numbers, ignore_index=IGNORE)
            loss = loss + self.weights.labels * told
        return ModelOutput(loss=loss, cell_embedding=cell)

    def _embed(self, batch_labels: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        if not getattr(inner_model(self.encoder).config, "needs_batch_labels", False):
            return self.encoder(**inputs).cell_embedding
        cell = None
        for batch in batch_labels.unique():
            rows = batch_labels == batch
            part = self.encoder(batch_labels=batch_labels[rows], **{name: one[rows] for name, one in inputs.items()})
            if cell is None:
                cell = part.cell_embedding.new_empty(len(rows), part.cell_embedding.shape[1])
            cell = cell.index_put((rows.nonzero()[:, 0],), part.cell_embedding)
        return cell

    def _expression_loss(
        self, cell: Tensor, batch_labels: Tensor, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor
    ) -> Tensor:
        """Mean over the cells of the mean squared error over their genes."""
        base = inner_model(self.encoder).base_model
        predicted = self.decoder(cell, base.embed_genes(input_ids), batch_labels)
        real, values = expression_targets(
            len(cell), input_ids, attention_mask, inputs.get("expression_values"), self.special
        )
        errors = torch.where(real, (predicted.float() - values) ** 2, 0.0).sum(dim=1)
        return (errors / real.sum(dim=1).clamp(min=1)).mean()


class ExpressionFromCell(nn.Module):
    """Predicts values of genes from the cell embedding, the batch and the embeddings of the genes (GEPC).

    As in scGPT, a gene asks by the sigmoid of a linear map of its embedding, and the answer is its product with the
    embedding of the cell beside that of the batch.

    Args:
        cell_size: width of the cell embedding.
        gene_size: width of the gene embeddings.
        num_batches: number of batches.
    """

    def __init__(self, cell_size: int, gene_size: int, num_batches: int) -> None:
        super().__init__()
        self.batches, self.norm = nn.Embedding(num_batches, cell_size), nn.LayerNorm(cell_size)
        self.query = nn.Linear(gene_size, gene_size)
        self.bilinear = nn.Linear(gene_size, 2 * cell_size, bias=False)

    def forward(self, cell: Tensor, genes: Tensor, batch_labels: Tensor) -> Tensor:
        """`(cells, genes)` values.

        Args:
            cell: `(cells, cell_size)`.
            genes: `(cells, genes, gene_size)`, or `(genes, gene_size)` of genes that all cells have.
            batch_labels: `(cells,)`.
        """
        told = torch.cat([cell, self.norm(self.batches(batch_labels)).to(cell.dtype)], dim=-1)
        asked = self.bilinear(torch.sigmoid(self.query(genes)))
        return told @ asked.T if asked.ndim == 2 else (asked @ told.unsqueeze(-1)).squeeze(-1)


class Discriminator(nn.Sequential):
    """Tells the batch from the cell embedding: scGPT's three layers with LeakyReLU and LayerNorm."""

    def __init__(self, size: int, num_batches: int) -> None:
        hidden = [layer for _ in range(2) for layer in (nn.Linear(size, size), nn.LeakyReLU(), nn.LayerNorm(size))]
        super().__init__(*hidden, nn.Linear(size, num_batches))
