"""MarsGT: a graph transformer over cells, genes and peaks that finds clusters of cells, rare ones among them.

Wang, Duan, Dong, Chang, Li, Liu, Wang, Ma, … Liu. MarsGT: multi-omics analysis for rare population inference using
single-cell graph transformer. Nature Communications 15, 338 (2024). doi:10.1038/s41467-023-44570-8
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput, auto_docstring, can_return_tuple

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.graphs import check_edges
from sclm_hf.modeling.common.heterogeneous_graph import (
    HeterogeneousGraphLayer,
    HeterogeneousGraphPreTrainedModel,
)
from sclm_hf.modeling.common.losses import class_numbers

from .configuration_marsgt import MarsGTConfig
from .losses_marsgt import distribution_loss, divergence, pair_weights, similarity_within

NODE_TYPES = ("cell", "gene", "peak")


@dataclass
class MarsGTOutput(ModelOutput):
    """What MarsGT returns.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Scalar, when labels were given.
        logits (`torch.FloatTensor`):
            `(cells, hidden)`, scores of clusters, which are the embedding itself.
        cell_embedding (`torch.FloatTensor`):
            `(cells, hidden)`.
        gene_embedding (`torch.FloatTensor`):
            `(genes, hidden)`.
        peak_embedding (`torch.FloatTensor`):
            `(peaks, hidden)`.
        attentions (`tuple[torch.FloatTensor]`):
            One `(edges, heads)` per layer: logits, before the softmax over the edges that arrive at a node.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    cell_embedding: torch.FloatTensor | None = None
    gene_embedding: torch.FloatTensor | None = None
    peak_embedding: torch.FloatTensor | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@auto_docstring
class MarsGTPreTrainedModel(HeterogeneousGraphPreTrainedModel):
    config: MarsGTConfig
    main_input_name = "cell_inputs"


@auto_docstring(custom_intro="MarsGT: cells, genes, peaks and the edges between them in, a vector for each out.")
class MarsGTModel(MarsGTPreTrainedModel):
    def __init__(self, config: MarsGTConfig):
        super().__init__(config)
        inputs = dict(
            zip(
                NODE_TYPES, (config.cell_input_size, config.feature_input_size, config.feature_input_size), strict=True
            )
        )
        self.encoder = nn.ModuleDict({name: nn.Linear(size, config.encoder_size) for name, size in inputs.items()})
        self.input_proj = nn.ModuleDict({name: nn.Linear(config.encoder_size, config.hidden_size) for name in inputs})
        self.layers = nn.ModuleList(
            [HeterogeneousGraphLayer(config, NODE_TYPES) for _ in range(config.num_hidden_layers)]
        )
        self.pair_proj = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        cell_inputs: torch.FloatTensor,
        gene_inputs: torch.FloatTensor,
        peak_inputs: torch.FloatTensor,
        edge_index: torch.LongTensor,
        edge_type: torch.LongTensor,
        labels: Tensor | None = None,
        expression: Tensor | None = None,
        accessibility: Tensor | None = None,
        potential: Tensor | None = None,
        **kwargs,
    ) -> MarsGTOutput:
        r"""
        cell_inputs (`torch.FloatTensor` of shape `(cells, cell_input_size)`):
            Counts of all genes in these cells.
        gene_inputs (`torch.FloatTensor` of shape `(genes, feature_input_size)`):
            Counts of these genes in all cells.
        peak_inputs (`torch.FloatTensor` of shape `(peaks, feature_input_size)`):
            Counts of these peaks in all cells.
        edge_index (`torch.LongTensor` of shape `(2, edges)`):
            Sources and targets; nodes are the cells, then the genes, then the peaks.
        edge_type (`torch.LongTensor` of shape `(edges,)`):
            Relations of the edges: 0 gene to cell, 1 cell to gene, 2 peak to cell, 3 cell to peak.
        labels (`torch.Tensor` of shape `(cells,)`, *optional*):
            Numbers of the initial clusters.
        expression (`torch.FloatTensor` of shape `(genes, cells)`, *optional*):
            Counts of these genes in these cells. With labels alone the loss is that of the first stage, with all four
            that of the second.
        accessibility (`torch.FloatTensor` of shape `(peaks, cells)`, *optional*):
            Counts of these peaks in these cells.
        potential (`torch.FloatTensor` of shape `(genes, peaks)`, *optional*):
            Regulatory potential of the peaks for the genes.
        """
        inputs = dict(zip(NODE_TYPES, (cell_inputs, gene_inputs, peak_inputs), strict=True))
        self._check(inputs, edge_index, edge_type)
        cells, genes, peaks, logits = self._embed(inputs, edge_index, edge_type)
        loss = None
        if labels is not None:
            numbers = class_numbers(cells, labels, "labels", setting="hidden_size")
            loss = F.cross_entropy(cells, numbers, label_smoothing=self.config.label_smoothing)
            if expression is None:
                loss = loss - similarity_within(cells, numbers)
            else:
                loss = loss + distribution_loss(genes @ cells.T, expression)
                loss = loss + distribution_loss(peaks @ cells.T, accessibility)
                loss = loss + self.pair_loss(cells, genes, peaks, expression, accessibility, potential)
        return MarsGTOutput(
            loss=loss,
            logits=cells,
            cell_embedding=cells,
            gene_embedding=genes,
            peak_embedding=peaks,
            attentions=logits,
        )

    def _embed(
        self, inputs: dict[str, Tensor], edge_index: Tensor, edge_type: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Embeddings of cells, genes and peaks, and the logits of each layer."""
        drops = self.training or self.config.dropout_at_prediction
        states = torch.cat(
            [
                self.input_proj[name](F.relu(self.encoder[name](values.to(self.dtype)))).tanh()
                for name, values in inputs.items()
            ]
        )
        states = F.dropout(states, self.config.hidden_dropout_prob, training=drops)
        sizes, logits = [len(values) for values in inputs.values()], []
        for layer in self.layers:
            states, own = layer(states, sizes, edge_index, edge_type, drops)
            logits.append(own)
        return *states.split(sizes), tuple(logits)

    def pair_states(self, genes: Tensor, peaks: Tensor, pairs: Tensor) -> Tensor:
        """(pairs, hidden), what the model says of pairs of a gene and a peak.

        Args:
            genes: (genes, hidden) embeddings.
            peaks: (peaks, hidden) embeddings.
            pairs: (2, pairs), numbers of genes above those of peaks.
        """
        of_gene, of_peak = self.pair_proj.weight.chunk(2, dim=1)
        # each node is multiplied once, not once for every pair
        return F.relu(
            (genes @ of_gene.T).index_select(0, pairs[0])
            + (peaks @ of_peak.T).index_select(0, pairs[1])
            + self.pair_proj.bias
        )

    def pair_loss(
        self,
        cells: Tensor,
        genes: Tensor,
        peaks: Tensor,
        expression: Tensor,
        accessibility: Tensor,
        potential: Tensor,
    ) -> Tensor:
        """How far pairs are from the cells in which both are active; arguments as for the model, and embeddings."""
        if self.config.pairs == "all":
            grid = torch.cartesian_prod(*(torch.arange(len(one), device=cells.device) for one in (peaks, genes)))
            pairs = grid.T.flip(0)
        else:
            pairs = potential.nonzero().T
        if not pairs.shape[1]:
            return cells.new_zeros(())
        weights = pair_weights(
            expression, accessibility, potential, pairs, aligned=self.config.pair_target == "aligned"
        )
        target = weights.to(cells.dtype) @ cells
        return divergence(self.pair_states(genes, peaks, pairs), target)

    def _check(self, inputs: dict[str, Tensor], edge_index: Tensor, edge_type: Tensor) -> None:
        for name, values in inputs.items():
            size = self.encoder[name].in_features
            if values.ndim != 2 or values.shape[1] != size:
                raise ConfigurationError(
                    f"`{name}_inputs` must be ({name}s, {size}), as the processor makes them; got "
                    f"{tuple(values.shape)}."
                )
        check_edges(edge_index, sum(len(values) for values in inputs.values()))
        if edge_type.shape != edge_index.shape[1:]:
            raise ConfigurationError(
                f"`edge_type` must be ({edge_index.shape[1]},), one for each edge; got {tuple(edge_type.shape)}."
            )


__all__ = ["MarsGTModel", "MarsGTPreTrainedModel"]
