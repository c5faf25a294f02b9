"""DeepMAPS: a graph transformer over cells and genes that embeds both.

Ma, Wang, Wang, Li, Wang, Liu, Su, Gao, Fu, … Ma. Single-cell biological network inference using a heterogeneous graph
transformer. Nature Communications 14, 964 (2023). doi:10.1038/s41467-023-36559-0
"""

import itertools
from collections.abc import Sequence
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

from .configuration_deepmaps import DeepMAPSConfig

NODE_TYPES = ("gene", "cell")


@dataclass
class DeepMAPSOutput(ModelOutput):
    """What DeepMAPS returns.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Scalar, when labels were given.
        cell_embedding (`torch.FloatTensor`, *optional*):
            `(cells, hidden)`; not where the decoders alone were asked for.
        gene_embedding (`torch.FloatTensor`, *optional*):
            `(genes, hidden)`.
        decoded_genes (`torch.FloatTensor`, *optional*):
            `(genes, gene_input_size)`, the inputs made from the codes again.
        decoded_cells (`torch.FloatTensor`, *optional*):
            `(cells, cell_input_size)`.
        attentions (`tuple[torch.FloatTensor]`, *optional*):
            One `(edges, heads)` per layer: logits, before the softmax over the edges that arrive at a node.
    """

    loss: torch.FloatTensor | None = None
    cell_embedding: torch.FloatTensor | None = None
    gene_embedding: torch.FloatTensor | None = None
    decoded_genes: torch.FloatTensor | None = None
    decoded_cells: torch.FloatTensor | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@auto_docstring
class DeepMAPSPreTrainedModel(HeterogeneousGraphPreTrainedModel):
    config: DeepMAPSConfig
    main_input_name = "cell_inputs"


def _stack(sizes: Sequence[int]) -> nn.ModuleList:
    """Linear layers from each size to the next."""
    return nn.ModuleList([nn.Linear(one, other) for one, other in itertools.pairwise(sizes)])


def _through(layers: nn.ModuleList, values: Tensor) -> Tensor:
    for layer in layers:
        values = F.relu(layer(values))
    return values


@auto_docstring(custom_intro="DeepMAPS: genes, cells and the edges between them in, a vector for each out.")
class DeepMAPSModel(DeepMAPSPreTrainedModel):
    def __init__(self, config: DeepMAPSConfig):
        super().__init__(config)
        inputs = dict(zip(NODE_TYPES, (config.gene_input_size, config.cell_input_size), strict=True))
        sizes = {name: [size, *config.encoder_sizes] for name, size in inputs.items()}
        self.encoder = nn.ModuleDict({name: _stack(one) for name, one in sizes.items()})
        self.decoder = nn.ModuleDict({name: _stack(one[::-1]) for name, one in sizes.items() if config.decodes_inputs})
        self.input_proj = nn.ModuleDict({name: nn.Linear(one[-1], config.hidden_size) for name, one in sizes.items()})
        self.layers = nn.ModuleList(
            [HeterogeneousGraphLayer(config, NODE_TYPES) for _ in range(config.num_hidden_layers)]
        )
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        cell_inputs: torch.FloatTensor,
        gene_inputs: torch.FloatTensor,
        edge_index: torch.LongTensor,
        edge_type: torch.LongTensor,
        labels: Tensor | None = None,
        decode: bool | Tensor = False,
        **kwargs,
    ) -> DeepMAPSOutput:
        r"""
        cell_inputs (`torch.FloatTensor` of shape `(cells, cell_input_size)`):
            What describes the cells.
        gene_inputs (`torch.FloatTensor` of shape `(genes, gene_input_size)`):
            What describes the genes.
        edge_index (`torch.LongTensor` of shape `(2, edges)`):
            Sources and targets; nodes are the genes and then the cells.
        edge_type (`torch.LongTensor` of shape `(edges,)`):
            Relations of the edges: 0 from gene to cell, 1 from cell to gene.
        labels (`torch.Tensor` of shape `(genes, cells)`, *optional*):
            The values of the genes in the cells, whose distribution over the cells the embeddings are to show.
        decode (`bool`, *optional*):
            Whether the loss is that of the decoders alone, which do without the graph.
        """
        inputs = {"gene": gene_inputs.to(self.dtype), "cell": cell_inputs.to(self.dtype)}
        self._check(inputs, edge_index, edge_type)
        codes = {name: _through(self.encoder[name], values) for name, values in inputs.items()}
        decoded = {name: _through(layers, codes[name]) for name, layers in self.decoder.items()}
        if decode:
            loss = self._decoding_loss(decoded, inputs)
            return DeepMAPSOutput(loss=loss, decoded_genes=decoded["gene"], decoded_cells=decoded["cell"])
        genes, cells, logits = self._embed(codes, edge_index, edge_type)
        return DeepMAPSOutput(
            loss=None if labels is None else distribution_loss(genes @ cells.T, labels),
            cell_embedding=cells,
            gene_embedding=genes,
            decoded_genes=decoded.get("gene"),
            decoded_cells=decoded.get("cell"),
            attentions=logits,
        )

    def _embed(
        self, codes: dict[str, Tensor], edge_index: Tensor, edge_type: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Embeddings of genes and of cells, and the logits of each layer."""
        if self.config.detaches_codes:
            codes = {name: code.detach() for name, code in codes.items()}
        states = torch.cat([self.input_proj[name](codes[name]).tanh() for name in NODE_TYPES])
        states = F.dropout(states, self.config.hidden_dropout_prob, training=self.training)
        sizes, logits = [len(codes[name]) for name in NODE_TYPES], []
        for layer in self.layers:
            states, own = layer(states, sizes, edge_index, edge_type, self.training)
            logits.append(own)
        genes, cells = states.split(sizes)
        return genes, cells, tuple(logits)

    def _decoding_loss(self, decoded: dict[str, Tensor], inputs: dict[str, Tensor]) -> Tensor:
        if not decoded:
            raise ConfigurationError("This model decodes nothing: leave `decode` out, or set `decodes_inputs`.")
        return sum(F.mse_loss(decoded[name], inputs[name]) for name in NODE_TYPES)

    def _check(self, inputs: dict[str, Tensor], edge_index: Tensor, edge_type: Tensor) -> None:
        sizes = (self.config.gene_input_size, self.config.cell_input_size)
        for (name, values), size in zip(inputs.items(), sizes, strict=True):
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


def distribution_loss(logits: Tensor, values: Tensor) -> Tensor:
    """How far the distributions of genes over cells are from those of their values: Kullback-Leibler, summed.

    Args:
        logits: (genes, cells).
        values: (genes, cells).
    """
    return F.kl_div(logits.log_softmax(dim=1), values.to(logits.dtype).softmax(dim=1), reduction="sum")


__all__ = ["DeepMAPSModel", "DeepMAPSPreTrainedModel"]
