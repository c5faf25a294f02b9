"""Outputs that the families share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
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


def cells_alone(model: nn.Module) -> dict[str, bool]:
    """What a call of `model` is given beside its inputs where nothing but the embeddings or classes of cells is read.

    Args:
        model: any; for families that save nothing there is nothing to give.
    """
    return {"cell_embedding_only": True} if getattr(model, "embeds_cells_alone", False) else {}


def records_states(model: PreTrainedModel, keywords: Mapping[str, Any]) -> bool:
    """Whether a call asks for the states or the attention of every layer."""
    names = ("output_hidden_states", "output_attentions")
    asked = {name: keywords.get(name) for name in names}
    return any(getattr(model.config, name) if given is None else given for name, given in asked.items())


def last_queries(model: PreTrainedModel, keywords: Mapping[str, Any]) -> int | None:
    """For how many positions the last layer is computed where only the first is read.

    Args:
        model: the one that is called.
        keywords: its `**kwargs`.

    Returns:
        1; None = all, where states are asked for or attention takes no part of a mask.
    """
    plain = model.config._attn_implementation in (None, "eager", "sdpa")
    return 1 if plain and not records_states(model, keywords) else None
