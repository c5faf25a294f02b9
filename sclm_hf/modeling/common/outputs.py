"""Outputs that the families share."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput


@dataclass
class CellModelOutput(ModelOutput):
    """What an encoder returns.

    Args:
        last_hidden_state (`torch.FloatTensor`, *optional*):
            `(batch, genes, hidden)` one vector per gene.
        cell_embedding (`torch.FloatTensor`, *optional*):
            `(batch, cell_embedding_size)` the cell's vector, pooled as the paper pools it.
        gene_embeddings (`torch.FloatTensor`, *optional*):
            `(batch, genes, hidden)` gene embeddings before values are added and the encoder runs.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, genes, hidden)` per layer, when asked for.
        attentions (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, heads, genes, genes)` per layer, when asked for.
    """

    last_hidden_state: torch.FloatTensor | None = None
    cell_embedding: torch.FloatTensor | None = None
    gene_embeddings: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class CellClassifierOutput(ModelOutput):
    """What a classifier of cells returns.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Scalar, when labels were given.
        logits (`torch.FloatTensor`, *optional*):
            `(batch, num_labels)`.
        cell_embedding (`torch.FloatTensor`, *optional*):
            `(batch, cell_embedding_size)`.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, genes, hidden)` per layer, when asked for.
        attentions (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, heads, genes, genes)` per layer, when asked for.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    cell_embedding: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class GenesOutput(ModelOutput):
    """What a head over genes returns.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Scalar, when labels were given.
        logits (`torch.FloatTensor`, *optional*):
            `(batch, genes, vocab_size)` of predicted genes, `(batch, genes, num_labels)` of classified ones.
        cell_embedding (`torch.FloatTensor`, *optional*):
            `(batch, cell_embedding_size)`.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, genes, hidden)` per layer, when asked for.
        attentions (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, heads, genes, genes)` per layer, when asked for.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    cell_embedding: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


def embedding_of(output: ModelOutput, config: PreTrainedConfig) -> torch.Tensor:
    """The embeddings of a batch as `embed` gives them.

    Args:
        output: what a model returned, with `cell_embedding`.
        config: its configuration; with `normalize_cell_embedding` each embedding is divided by its L2 norm.

    Returns:
        (batch, cell_embedding_size) float32.
    """
    cell_embedding = output.cell_embedding.float()
    return F.normalize(cell_embedding, dim=-1) if config.normalize_cell_embedding else cell_embedding
