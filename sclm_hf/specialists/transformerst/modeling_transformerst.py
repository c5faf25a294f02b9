"""TransformerST: an autoencoder of spots whose layers attend along graphs of their neighbours.

Zhao, Xu, Wang et al. Innovative super-resolution in spatial transcriptomics: a transformer model exploiting histology
images and spatial gene expression. Briefings in Bioinformatics 25, bbae052 (2024). doi:10.1093/bib/bbae052
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import ModelOutput, auto_docstring, can_return_tuple

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.base import PlainPreTrainedModel
from sclm_hf.modeling.common.graphs import check_edges, scatter_sum, segment_softmax
from sclm_hf.modeling.common.initialization import draw_linear
from sclm_hf.modeling.common.inputs import check_expression

from .clusters_transformerst import k_means, sharpened, soft_assignments
from .configuration_transformerst import TransformerSTConfig

COMMITMENT = 0.25
"""Weight of expression that comes to its code, beside that of the code that comes to it."""


@dataclass
class TransformerSTOutput(ModelOutput):
    """What TransformerST says of spots.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Scalar, when asked for.
        cell_embedding (`torch.FloatTensor`):
            `(spots, cell_embedding_size)`, the rounded expression and what the graphs gathered.
        reconstruction (`torch.FloatTensor`):
            `(spots, genes)` log-normalised expression.
        clusters (`torch.FloatTensor`):
            `(spots, num_clusters)` probabilities; of a meaning once the second stage has trained them.
        features (`torch.FloatTensor`):
            `(spots, code_size)` encoded expression before it is rounded.
        codes (`torch.LongTensor`):
            `(spots,)` number of the code that it is rounded to.
        reconstruction_loss, graph_loss, code_loss, cluster_loss (`torch.FloatTensor`, *optional*):
            Scalars, the parts of the loss; the last one in the second stage.
    """

    loss: torch.FloatTensor | None = None
    cell_embedding: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    clusters: torch.FloatTensor | None = None
    features: torch.FloatTensor | None = None
    codes: torch.LongTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    graph_loss: torch.FloatTensor | None = None
    code_loss: torch.FloatTensor | None = None
    cluster_loss: torch.FloatTensor | None = None


class HiddenLayer(nn.Sequential):
    """A linear layer, normalised over the spots and bent."""

    def __init__(self, n_in: int, n_out: int, dropout: float):
        norm = nn.BatchNorm1d(n_out, eps=1e-4, momentum=0.1)
        super().__init__(nn.Linear(n_in, n_out), norm, nn.ELU(), nn.Dropout(dropout))


class EdgeAttention(nn.Module):
    """Attention of every node to those whose edges lead to it (Shi et al., IJCAI 2021), with one head."""

    def __init__(self, n_in: int, n_out: int, dropout: float):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.skip_proj = (nn.Linear(n_in, n_out) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, nodes: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        """(nodes, n_out) what is gathered, and (edges,) the weights."""
        sources, targets = edge_index
        query, key = self.q_proj(nodes).index_select(0, targets), self.k_proj(nodes).index_select(0, sources)
        logits = (query * key).sum(dim=1) * query.shape[1] ** -0.5
        weights = segment_softmax(logits, targets, len(nodes))
        messages = self.dropout(weights).unsqueeze(1) * self.v_proj(nodes).index_select(0, sources)
        return scatter_sum(messages, targets, len(nodes)) + self.skip_proj(nodes), weights


class GraphLayer(nn.Module):
    """Attention along two graphs with the same weights; each spreads what it gathered by these once more.

    Args:
        n_in, n_out, dropout: those of the attention.
        mix: share of the first graph.
        is_chained: whether the second graph reads what the first one wrote.
        along_edges: whether it spreads from sources to targets.
    """

    def __init__(self, n_in: int, n_out: int, dropout: float, mix: float, is_chained: bool, along_edges: bool):
        super().__init__()
        self.attention = EdgeAttention(n_in, n_out, dropout)
        self.mix, self.is_chained, self.along_edges = mix, is_chained, along_edges

    def forward(self, nodes: Tensor, edges: tuple[Tensor, Tensor]) -> Tensor:
        first, weights = self.attention(nodes, edges[0])
        second, other_weights = self.attention(first if self.is_chained else nodes, edges[1])
        spread = self._spread(first, edges[0], weights), self._spread(second, edges[1], other_weights)
        return self.mix * spread[0] + (1 - self.mix) * spread[1]

    def _spread(self, nodes: Tensor, edge_index: Tensor, weights: Tensor) -> Tensor:
        start, end = edge_index if self.along_edges else edge_index.flip(0)
        return scatter_sum(weights.unsqueeze(1) * nodes.index_select(0, start), end, len(nodes))


class Codebook(nn.Module):
    """Vectors that others are rounded to."""

    def __init__(self, num_codes: int, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_codes, size))

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest codes, with the gradient of the vectors; their numbers; and a loss that draws both together."""
        numbers = torch.cdist(vectors, self.weight).argmin(dim=1)
        nearest = self.weight.index_select(0, numbers)
        loss = F.mse_loss(nearest, vectors.detach()) + COMMITMENT * F.mse_loss(vectors, nearest.detach())
        return vectors + (nearest - vectors).detach(), numbers, loss


class Clusters(nn.Module):
    """Centres of clusters of the embedding."""

    def __init__(self, num_clusters: int, size: int):
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(num_clusters, size))

    def forward(self, latent: Tensor) -> Tensor:
        return soft_assignments(latent, self.centres)


@auto_docstring
class TransformerSTPreTrainedModel(PlainPreTrainedModel):
    config: TransformerSTConfig
    main_input_name = "expression_values"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            draw_linear(module)
        elif isinstance(module, Codebook):
            bound = 1 / len(module.weight)
            init.uniform_(module.weight, -bound, bound)
        elif isinstance(module, Clusters):
            init.xavier_normal_(module.centres)
        else:
            super()._init_weights(module)


@auto_docstring(custom_intro="Expression of spots and two graphs of them in, embeddings and clusters out.")
class TransformerSTModel(TransformerSTPreTrainedModel):
    accepts_loss_kwargs = False

    def __init__(self, config: TransformerSTConfig):
        super().__init__(config)
        dropout, inner = config.hidden_dropout_prob, config.graph_hidden_size
        self.encoder = nn.Sequential(
            HiddenLayer(config.num_genes, config.feature_hidden_size, dropout),
            HiddenLayer(config.feature_hidden_size, config.code_size, dropout),
        )
        sizes = [config.code_size, *[inner] * (config.num_hidden_layers - 1), config.graph_output_size]
        last = config.num_hidden_layers - 1
        self.layers = nn.ModuleList(
            GraphLayer(
                sizes[number],
                sizes[number + 1],
                dropout,
                config.mix,
                config.is_chained and 0 < number < last,
                config.along_edges,
            )
            for number in range(config.num_hidden_layers)
        )
        self.codebook = Codebook(config.num_codes, config.code_size)
        self.decoder = HiddenLayer(config.cell_embedding_size, config.num_genes, dropout)
        self.clusters = Clusters(config.num_clusters, config.cell_embedding_size)
        self.register_buffer("target", None, persistent=False)
        self.post_init()

    def embed(self, expression_values: Tensor, edges: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The embedding, the encoded expression, its codes, and the loss of these."""
        features = self.encoder(expression_values)
        nodes = features
        for number, layer in enumerate(self.layers):
            nodes = layer(F.relu(nodes) if number else nodes, edges)
        rounded, codes, code_loss = self.codebook(features)
        return torch.cat([rounded, nodes], dim=1), features, codes, code_loss

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        expression_values: torch.FloatTensor,
        spatial_edges: torch.LongTensor,
        pruned_edges: torch.LongTensor,
        cluster_step: torch.LongTensor | int | None = None,
        return_loss: bool | None = None,
        **kwargs,
    ) -> TransformerSTOutput:
        r"""
        expression_values (`torch.FloatTensor` of shape `(spots, genes)`):
            Log-normalised expression of the genes of the processor, in its order.
        spatial_edges (`torch.LongTensor` of shape `(2, edges)`):
            Neighbours in the tissue, sources above targets, both ways and none to itself.
        pruned_edges (`torch.LongTensor` of shape `(2, edges)`):
            Those of them that look alike.
        cluster_step (`torch.LongTensor` or `int`, *optional*):
            Number of the step of the second stage of training, in which clusters are trained; none in the first one.
        return_loss (`bool`, *optional*):
            Whether to compute the loss; by default in training.
        """
        check_expression(expression_values, self.config.num_genes)
        edges = spatial_edges, pruned_edges
        for name, one in zip(("spatial_edges", "pruned_edges"), edges, strict=True):
            check_edges(one, len(expression_values), name=name)
        expression_values = expression_values.to(self.dtype)
        if cluster_step is not None and self.training:
            self._aim(expression_values, edges, int(cluster_step))
        latent, features, codes, code_loss = self.embed(expression_values, edges)
        reconstruction, clusters = self.decoder(latent), self.clusters(latent)
        losses = {}
        if self.training if return_loss is None else return_loss:
            losses = {
                "reconstruction_loss": F.mse_loss(reconstruction, expression_values),
                "graph_loss": self._graph_loss(latent, edges),
                "code_loss": code_loss,
            }
            losses["loss"] = (
                losses["reconstruction_loss"] + losses["graph_loss"] + self.config.code_loss_weight * code_loss
            )
            if cluster_step is not None:
                target = sharpened(clusters.detach()) if self.target is None else self.target
                losses["cluster_loss"] = (target * (target.log() - clusters.log())).mean()
                losses["loss"] = losses["loss"] + losses["cluster_loss"]
        return TransformerSTOutput(
            cell_embedding=latent,
            reconstruction=reconstruction,
            clusters=clusters,
            features=features,
            codes=codes,
            **losses,
        )

    def _graph_loss(self, latent: Tensor, edges: tuple[Tensor, Tensor]) -> Tensor:
        """How badly products of embeddings tell who are neighbours."""
        n_spots = len(latent)
        labels = neighbour_labels(n_spots, edges).to(latent.dtype)
        scale = n_spots**2 / (2 * max(n_spots**2 - edges[0].shape[1], 1))
        logits = F.dropout(latent, self.config.hidden_dropout_prob, self.training) @ latent.T
        return scale * F.binary_cross_entropy_with_logits(logits, labels)

    @torch.no_grad()
    def _aim(self, expression_values: Tensor, edges: tuple[Tensor, Tensor], step: int) -> None:
        """Set the centres at the first step of the second stage, and what clusters should become every few steps."""
        if step % self.config.target_update_interval and self.target is not None:
            return
        self.eval()
        latent = self.embed(expression_values, edges)[0]
        self.train()
        if step == 0:
            if len(latent) < self.config.num_clusters:
                raise ConfigurationError(
                    f"{len(latent)} spots are too few for {self.config.num_clusters} clusters: lower `num_clusters`."
                )
            centres = k_means(latent, self.config.num_clusters, torch.Generator().manual_seed(0))
            self.clusters.centres.copy_(centres)
        self.target = sharpened(self.clusters(latent))


def neighbour_labels(n_spots: int, edges: tuple[Tensor, Tensor]) -> Tensor:
    """(spots, spots) the share of the graphs in which one spot leads to another; 1 from each to itself."""
    labels = torch.eye(n_spots, device=edges[0].device)
    for sources, targets in edges:
        labels[sources, targets] += 1 / len(edges)
    return labels


__all__ = ["TransformerSTModel", "TransformerSTPreTrainedModel"]
