"""Supervised pre-training: a classifier of the leaves of an ontology, from labels of any grain.

A label is the set of the leaves that it may mean; the loss is -log of their probability together. What a model learns
besides (denoising) or otherwise (weights of labels, margins) lies in a module around the classifier, which is left
behind when the classifier is saved.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ..errors import ConfigurationError
from ..modeling.common.losses import counts, label_set_loss, mean_over_targets
from ..tokenization.encodings.masks import IGNORED
from .cell_classification import check_classes
from .collation import CellCollator, require_column


@dataclass
class SupervisedCollator(CellCollator):
    """Hands the batch on with the set of classes that each cell may have.

    Args:
        label_sets: (labels, classes) bool, as `CellCorpus.label_sets`.
        label_weights: (labels,) what a cell with each label counts in the loss; None = 1.
        left_out: what the model does not read.

    Gives:
        The batch without `cell_ids`, and `labels` (cells, classes) bool; all are True where the label is -100. With
        `label_weights` also `loss_weights` (cells,) float32, for [`Supervision`].
    """

    objective = "supervised"
    narrow = True

    label_sets: np.ndarray = field(default_factory=lambda: np.ones((0, 0), bool))
    label_weights: np.ndarray | None = None
    left_out: tuple[str, ...] = ("cell_ids",)

    @classmethod
    def from_processor(cls, processor: Any, **overrides: Any) -> "SupervisedCollator":
        """As for [`CellCollator`]; the batches of a model of samples only tell which cells belong together."""
        left_out = ("cell_ids", "batch_labels") if processor.context == "sample" else ("cell_ids",)
        return super().from_processor(processor, **({"left_out": left_out} | overrides))

    def collate(self, batch: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
        numbers = require_column(batch, "labels", "supervised training needs one label per cell").astype(np.int64)
        check_classes(numbers, len(self.label_sets))
        # the last row is that of -100
        sets = np.concatenate([self.label_sets, np.ones((1, self.label_sets.shape[1]), bool)])
        inputs = {name: values for name, values in batch.items() if name not in self.left_out}
        rows = np.where(numbers == IGNORED, -1, numbers)
        inputs["labels"] = sets[rows]
        if self.label_weights is not None:
            inputs["loss_weights"] = np.append(self.label_weights, 1).astype(np.float32)[rows]
        return inputs


class Supervision(nn.Module):
    """A classifier, and what is added to its loss in training; in evaluation the loss is the classifier's own.

    Args:
        classifier: the model that is trained and saved, with or without PEFT around it.
        decoder: predicts what it sees of a cell from `cell_embedding`; None = no denoising.
        denoising_weight: what the decoder's loss is multiplied with.
        embedding_classifier: classifies `cell_embedding`, for families whose classifier reads something else.
        embedding_weight: what the loss of `embedding_classifier` is multiplied with.
        spread_weight: what [`concentration`] of the cell embeddings is multiplied with; 0 = it does not count.
        margins: (classes,) subtracted from the logits of the classes that a cell may have; None = 0.
    """

    # its terms count cells and labels, and only a mean over the batch fits both
    accepts_loss_kwargs = False

    def __init__(
        self,
        classifier: nn.Module,
        *,
        decoder: "ValueDecoder | None" = None,
        denoising_weight: float = 0.0,
        embedding_classifier: nn.Module | None = None,
        embedding_weight: float = 0.0,
        spread_weight: float = 0.0,
        margins: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.classifier, self.decoder = classifier, decoder
        self.denoising_weight, self.spread_weight = denoising_weight, spread_weight
        self.embedding_classifier, self.embedding_weight = embedding_classifier, embedding_weight
        self.register_buffer("margins", margins)

    @property
    def kept(self) -> nn.Module:
        """What is saved."""
        return self.classifier

    def forward(self, labels: Tensor | None = None, loss_weights: Tensor | None = None, **inputs: Any) -> ModelOutput:
        outputs = self.classifier(labels=labels, **inputs)
        if not self.training or labels is None:
            return outputs
        if self.margins is not None or loss_weights is not None:
            # what else is in the classifier's loss stays
            plain = label_set_loss(outputs.logits, labels)
            outputs.loss = outputs.loss - plain + self._label_loss(outputs.logits, labels, loss_weights)
        if self.decoder is not None:
            outputs.loss = outputs.loss + self.denoising_weight * self.decoder(outputs.cell_embedding, **inputs)
        if self.embedding_classifier is not None:
            logits = self.embedding_classifier(outputs.cell_embedding)
            outputs.loss = outputs.loss + self.embedding_weight * self._label_loss(logits, labels, loss_weights)
        if self.spread_weight:
            outputs.loss = outputs.loss + self.spread_weight * concentration(outputs.cell_embedding)
        return outputs

    def _label_loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """As `label_set_loss`, with margins and weights."""
        logits = logits.float()
        if self.margins is not None:
            logits = logits - self.margins * labels
        is_target = counts(labels)
        inside = logits.masked_fill(~(labels | ~is_target.unsqueeze(1)), -torch.inf).logsumexp(dim=1)
        losses = logits.logsumexp(dim=1) - inside
        return mean_over_targets(losses if weights is None else losses * weights, is_target)


class ValueDecoder(nn.Module):
    """Predicts the values of a cell's genes from its embedding.

    The values are those of the encoding, or, for models that read rankings, how early a gene comes; standardised
    within each cell, so that no unit decides how much the loss counts.

    Args:
        cell_embedding_size: width of the embedding.
        vocab_size: number of tokens.
        special_token_ids: tokens that are no genes.
    """

    def __init__(self, cell_embedding_size: int, vocab_size: int, special_token_ids: tuple[int, ...] = ()) -> None:
        super().__init__()
        width = cell_embedding_size
        self.cell = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.genes = nn.Linear(width, vocab_size)
        self.register_buffer("special", torch.tensor(special_token_ids, dtype=torch.long), persistent=False)

    @classmethod
    def fitting(cls, model: PreTrainedModel, processor: Any) -> "ValueDecoder":
        """A decoder for what `processor` makes of cells.

        Raises:
            ConfigurationError: the encoding has neither values nor an order of genes.
        """
        encoding, vocabulary = processor.feature_extractor, processor.tokenizer.gene_vocabulary
        has_values = "expression_values" in encoding.model_input_names
        if not (has_values or encoding.value_encoding.ranks_genes):
            raise ConfigurationError(
                f"Denoising predicts values or ranks of genes, and the encoding {encoding.encoding!r} has neither: "
                "leave `denoising_weight` at 0."
            )
        return cls(embedding_size(model), vocabulary.size, tuple(vocabulary.special_tokens.values()))

    def forward(self, cell_embedding: Tensor, input_ids: Tensor, attention_mask: Tensor, **inputs: Any) -> Tensor:
        """Mean over the cells of the mean squared error over their genes."""
        ids = input_ids.expand(len(cell_embedding), -1)
        real, values = expression_targets(
            len(ids), input_ids, attention_mask, inputs.get("expression_values"), self.special
        )
        predicted = self.genes(self.cell(cell_embedding)).float().gather(1, ids)
        errors = torch.where(real, (predicted - values) ** 2, 0.0).sum(dim=1)
        return (errors / real.sum(dim=1).clamp(min=1)).mean()


def expression_targets(
    n_cells: int, input_ids: Tensor, attention_mask: Tensor, values: Tensor | None, special: Tensor
) -> tuple[Tensor, Tensor]:
    """What is asked of a cell embedding: values of genes, or how early they come, standardised within each cell.

    Args:
        n_cells: number of cells.
        input_ids: `(cells, genes)`, or `(genes,)` of genes that all cells have.
        attention_mask: `(cells, genes)`, or `(cells,)`.
        values: `(cells, genes)` values of the encoding; None = it ranks genes.
        special: ids of tokens that are no genes.

    Returns:
        `(cells, genes)` bool, which positions are genes; and `(cells, genes)` values.
    """
    ids = input_ids.expand(n_cells, -1)
    real = attention_mask.bool() if attention_mask.ndim == 2 else attention_mask.bool().unsqueeze(1).expand_as(ids)
    real = real & ~torch.isin(ids, special)
    values = -torch.arange(ids.shape[1], device=ids.device).expand_as(ids) if values is None else values
    return real, _standardised(values.float(), real)


def embedding_size(model: PreTrainedModel) -> int:
    """Width of the cell embedding that a classifier of cells returns."""
    return model.returned_size


def concentration(embeddings: Tensor) -> Tensor:
    """How few directions hold the variance of the cells of a batch: minus the logarithm of their number.

    The number is the participation ratio (Σλ)² / Σλ² of the variances λ along the principal components: 1 where all
    variance lies along one, and the size of the embedding where all have the same.

    Args:
        embeddings: (cells, size).
    """
    centred = embeddings.float() - embeddings.float().mean(dim=0)
    centred = centred / centred.square().sum().clamp(min=1e-12).sqrt()
    # the smaller of the two products that have the same eigenvalues, whose sum is 1
    product = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    return product.square().sum().clamp(min=1e-12).log()


def _standardised(values: Tensor, real: Tensor) -> Tensor:
    """(cells, genes) values with mean 0 and deviation 1 over the genes of each cell."""
    n_genes = real.sum(dim=1, keepdim=True).clamp(min=1)
    centred = torch.where(real, values - torch.where(real, values, 0.0).sum(dim=1, keepdim=True) / n_genes, 0.0)
    deviation = ((centred**2).sum(dim=1, keepdim=True) / n_genes).sqrt()
    return centred / deviation.clamp(min=1e-6)
