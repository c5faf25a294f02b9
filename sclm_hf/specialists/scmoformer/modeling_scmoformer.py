"""scMoFormer: a graph of cells, genes and proteins whose nodes of a kind attend to one another; RNA in, proteins out.

Tang, Wen, Liu et al. Single-cell multimodal prediction via transformers. CIKM 2023. arXiv:2303.00233
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import ModelOutput, auto_docstring, can_return_tuple

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.attention.performer import PerformerFeatures, orthogonal_random_features
from sclm_hf.modeling.common.base import PlainPreTrainedModel
from sclm_hf.modeling.common.graphs import check_edges, degrees, scatter_sum
from sclm_hf.modeling.common.initialization import draw_linear
from sclm_hf.modeling.common.losses import masked_mse
from sclm_hf.modeling.common.performer import PerformerAttention, PerformerLayer

from .configuration_scmoformer import ScMoFormerConfig


@dataclass
class ScMoFormerOutput(ModelOutput):
    """What scMoFormer says of cells.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Scalar, when labels were given.
        logits (`torch.FloatTensor`):
            `(cells, proteins)`, in the units of the labels.
        cell_embedding (`torch.FloatTensor`):
            `(cells, cell_embedding_size)`, the states of the cells at all levels, side by side.
        cells, genes, proteins (`tuple[torch.FloatTensor]`, *optional*):
            The states of the nodes at all levels, `(nodes, hidden)` each, when asked for by `output_hidden_states`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    cell_embedding: torch.FloatTensor | None = None
    cells: tuple[torch.FloatTensor, ...] | None = None
    genes: tuple[torch.FloatTensor, ...] | None = None
    proteins: tuple[torch.FloatTensor, ...] | None = None


class Aggregate(nn.Module):
    """A node's own state, and the mean of what its edges bring (Hamilton, Ying, Leskovec, NeurIPS 2017)."""

    def __init__(self, size: int, dropout: float):
        super().__init__()
        self.own = nn.Linear(size, size)
        self.brought = nn.Linear(size, size, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, targets: Tensor, summed: Tensor, counts: Tensor) -> Tensor:
        """(targets, size), given what was brought, summed over the edges, and (targets,) how many these are."""
        return self.own(self.dropout(targets)) + self.brought(summed / counts.clamp(min=1).unsqueeze(1))

    def along_matrix(self, targets: Tensor, sources: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
        """As `forward`, along (targets, sources) weights."""
        return self(targets, weights @ self.dropout(sources), counts)

    def along_edges(self, nodes: Tensor, edge_index: Tensor, weights: Tensor) -> Tensor:
        """As `forward`, along a list of edges between the same nodes, with (edges,) weights."""
        sources, targets = edge_index
        messages = weights.unsqueeze(1) * self.dropout(nodes).index_select(0, sources)
        return self(nodes, scatter_sum(messages, targets, len(nodes)), degrees(targets, len(nodes)))


class GraphLayer(nn.Module):
    """Nodes of a kind: what their graph brings, and attention among all of them (Rampášek et al., NeurIPS 2022)."""

    def __init__(self, config: ScMoFormerConfig):
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        self.local = Aggregate(size, 0.0)
        self.self_attn = PerformerAttention(
            size,
            config.num_attention_heads,
            config.graph_head_dim,
            n_random_features(config.graph_head_dim),
            bias=False,
        )
        self.local_norm, self.attention_norm, self.norm = (nn.LayerNorm(size, eps=eps) for _ in range(3))
        self.linear1, self.linear2 = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.attention_dropout = nn.Dropout(config.attention_dropout_prob)

    def forward(self, nodes: Tensor, edge_index: Tensor, weights: Tensor) -> Tensor:
        local = self.local_norm(nodes + self.dropout(self.local.along_edges(nodes, edge_index, weights)))
        attended, _ = self.self_attn(nodes.unsqueeze(0), key_maximum="head")
        attended = self.attention_norm(nodes + self.attention_dropout(attended.squeeze(0)))
        both = local + attended
        inner = self.dropout(F.selu(self.linear1(both)))
        return self.norm(both + self.dropout(self.linear2(inner)))


class Terms(nn.Module):
    """Joins the terms that arrive at the nodes of a kind."""

    def __init__(self, config: ScMoFormerConfig):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) for _ in range(2))

    def forward(self, *terms: Tensor) -> Tensor:
        return self.norm2(F.selu(sum(self.norm1(F.selu(term)) for term in terms)))


class ScMoFormerLayer(nn.Module):
    """One round of messages between cells, genes and proteins, and of attention within each kind."""

    def __init__(self, config: ScMoFormerConfig):
        super().__init__()
        size, dropout = config.hidden_size, config.hidden_dropout_prob
        self.cell_to_gene, self.gene_to_cell, self.gene_to_protein, self.protein_to_gene = (
            Aggregate(size, dropout) for _ in range(4)
        )
        self.genes, self.proteins = GraphLayer(config), GraphLayer(config)
        head_dim = size // config.num_attention_heads
        self.cells = PerformerLayer(
            size,
            config.num_attention_heads,
            head_dim,
            n_random_features(head_dim),
            2 * size,
            bias=True,
            dropout=config.attention_dropout_prob,
            norm_eps=config.layer_norm_eps,
        )
        self.own = nn.Linear(size, size)
        self.gene_terms, self.protein_terms, self.cell_terms = (Terms(config) for _ in range(3))
        self.edge_dropout = nn.Dropout(dropout)

    def forward(self, cells: Tensor, genes: Tensor, proteins: Tensor, graph: "Graph") -> tuple[Tensor, Tensor, Tensor]:
        seen, coded = self.edge_dropout(graph.expression), graph.gene_protein
        new_genes = self.gene_terms(
            self.cell_to_gene.along_matrix(genes, cells, seen.T, graph.cells_of_gene),
            self.protein_to_gene.along_matrix(genes, proteins, coded, coded.sum(dim=1)),
            self.genes(genes, graph.gene_edges, graph.gene_weights),
        )
        new_proteins = self.protein_terms(
            self.gene_to_protein.along_matrix(proteins, genes, coded.T, coded.sum(dim=0)),
            self.proteins(proteins, graph.protein_edges, graph.protein_weights),
        )
        new_cells = self.cell_terms(
            self.gene_to_cell.along_matrix(cells, genes, seen, graph.genes_of_cell),
            self.own(cells),
            self.cells(cells.unsqueeze(0), key_maximum="head").squeeze(0),
        )
        return new_cells, new_genes, new_proteins


class Graph:
    """The edges between cells, genes and proteins.

    Args:
        expression: (cells, genes) weights of the edges between them; none where it is 0.
        gene_edges: (2, edges) between genes.
        gene_weights: (edges,).
        protein_edges: (2, edges) between proteins.
        protein_weights: (edges,).
        gene_protein: (genes, proteins) 1 where a gene codes for a protein.
    """

    def __init__(
        self,
        expression: Tensor,
        gene_edges: Tensor,
        gene_weights: Tensor,
        protein_edges: Tensor,
        protein_weights: Tensor,
        gene_protein: Tensor,
    ):
        self.expression, self.gene_protein = expression, gene_protein
        self.gene_edges, self.gene_weights = gene_edges, gene_weights
        self.protein_edges, self.protein_weights = protein_edges, protein_weights
        is_seen = (expression != 0).to(expression.dtype)
        self.cells_of_gene, self.genes_of_cell = is_seen.sum(dim=0), is_seen.sum(dim=1)


def n_random_features(head_dim: int) -> int:
    """Random features of a head, as many as the Performer's code takes by default."""
    return int(head_dim * math.log(head_dim))


class Proteins(nn.Module):
    """A vector for each protein."""

    def __init__(self, config: ScMoFormerConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.num_proteins, config.hidden_size))


@auto_docstring
class ScMoFormerPreTrainedModel(PlainPreTrainedModel):
    config: ScMoFormerConfig
    main_input_name = "expression"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            draw_linear(module)
        elif isinstance(module, Proteins):
            init.normal_(module.weight)
        elif isinstance(module, PerformerFeatures):
            init.copy_(module.projection, orthogonal_random_features(*module.projection.shape))
        else:
            super()._init_weights(module)


@auto_docstring(custom_intro="A graph of cells, genes and proteins in, the proteins of the cells out.")
class ScMoFormerModel(ScMoFormerPreTrainedModel):
    accepts_loss_kwargs = False

    def __init__(self, config: ScMoFormerConfig):
        super().__init__(config)
        size = config.hidden_size
        self.embed_cells, self.embed_genes_by = (nn.Linear(config.feature_size, size) for _ in range(2))
        self.gene_positions, self.protein_positions = (nn.Linear(config.position_size, size) for _ in range(2))
        self.proteins = Proteins(config)
        self.layers = nn.ModuleList(ScMoFormerLayer(config) for _ in range(config.num_hidden_layers))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.predictor = nn.Linear(config.cell_embedding_size, config.num_proteins)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        expression: torch.FloatTensor,
        cell_features: torch.FloatTensor,
        gene_features: torch.FloatTensor,
        gene_positions: torch.FloatTensor,
        protein_positions: torch.FloatTensor,
        gene_edges: torch.LongTensor,
        gene_weights: torch.FloatTensor,
        protein_edges: torch.LongTensor,
        protein_weights: torch.FloatTensor,
        gene_protein: torch.FloatTensor,
        labels: torch.FloatTensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> ScMoFormerOutput:
        r"""
        expression (`torch.FloatTensor` of shape `(cells, genes)`):
            Log-normalised expression of the genes of the processor, in its order.
        cell_features (`torch.FloatTensor` of shape `(cells, feature_size)`):
            Components of the cells.
        gene_features (`torch.FloatTensor` of shape `(genes, feature_size)`):
            Sums of these over the cells of training, weighted by expression.
        gene_positions (`torch.FloatTensor` of shape `(genes, position_size)`):
            Where genes are in their graph.
        protein_positions (`torch.FloatTensor` of shape `(proteins, position_size)`):
            Where proteins are in theirs.
        gene_edges (`torch.LongTensor` of shape `(2, edges)`):
            Edges between genes, sources above targets.
        gene_weights (`torch.FloatTensor` of shape `(edges,)`):
            Their weights.
        protein_edges (`torch.LongTensor` of shape `(2, edges)`):
            Edges between proteins, sources above targets.
        protein_weights (`torch.FloatTensor` of shape `(edges,)`):
            Their weights.
        gene_protein (`torch.FloatTensor` of shape `(genes, proteins)`):
            1 where a gene codes for a protein.
        labels (`torch.FloatTensor` of shape `(cells, proteins)`, *optional*):
            What to predict; -100 for cells that are in the graph only.
        """
        self._check(expression, cell_features, gene_edges, protein_edges)
        graph = Graph(
            expression.to(self.dtype), gene_edges, gene_weights, protein_edges, protein_weights, gene_protein
        )
        cells = self.dropout(F.selu(self.embed_cells(cell_features)))
        genes = self.dropout(F.selu(self.embed_genes_by(gene_features) + self.gene_positions(gene_positions)))
        proteins = self.dropout(F.selu(self.proteins.weight + self.protein_positions(protein_positions)))
        levels = [(cells, genes, proteins)]
        for layer in self.layers:
            levels.append(layer(*levels[-1], graph))
        of_cells, of_genes, of_proteins = zip(*levels, strict=True)
        embedding = torch.cat(of_cells, dim=1)
        logits = self.predictor(self.dropout(embedding))
        states = {"cells": of_cells, "genes": of_genes, "proteins": of_proteins}
        return ScMoFormerOutput(
            loss=None if labels is None else masked_mse(logits, labels),
            logits=logits,
            cell_embedding=embedding,
            **(states if output_hidden_states else {}),
        )

    def _check(self, expression: Tensor, cell_features: Tensor, gene_edges: Tensor, protein_edges: Tensor) -> None:
        """Refuse what is no graph of the model's genes and proteins."""
        config = self.config
        expected = {
            "expression": (tuple(expression.shape), (len(expression), config.num_genes)),
            "cell_features": (tuple(cell_features.shape), (len(expression), config.feature_size)),
        }
        for name, (found, shape) in expected.items():
            if found != shape:
                raise ConfigurationError(f"`{name}` must be {shape}, as the processor makes it; got {found}.")
        check_edges(gene_edges, config.num_genes, name="gene_edges")
        check_edges(protein_edges, config.num_proteins, name="protein_edges")


__all__ = ["ScMoFormerModel", "ScMoFormerPreTrainedModel"]
