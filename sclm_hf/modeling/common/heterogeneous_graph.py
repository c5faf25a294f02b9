"""A layer of the heterogeneous graph transformer, which DeepMAPS and MarsGT share.

Hu, Dong, Wang, Sun. Heterogeneous Graph Transformer. The Web Conference 2020. doi:10.1145/3366423.3380027. As both use
it: weights of attention and of messages belong to a relation alone, whatever types of nodes it joins, and nothing is
encoded of time.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .base import PlainPreTrainedModel
from .conversion import WeightMap
from .graphs import edges_by_relation, scatter_sum, segment_softmax
from .initialization import draw_linear

EDGES_AT_ONCE = 500_000
"""Where no gradient is wanted, edges are looked at in groups of about so many."""


class HeterogeneousGraphLayer(nn.Module):
    """Every node attends to the nodes from which edges lead to it, all relations together.

    Nodes are in the order of their types. An edge whose relation the layer does not have is left out; with
    `unmatched_edges="zero_logit"` its message is zero, but it takes its share of the attention, as in the original.

    Args:
        config: has `hidden_size`, `num_attention_heads`, `num_relations`, `hidden_dropout_prob`, `layer_norm_eps`,
            `use_norm` and `unmatched_edges`.
        node_types: names of the types, in order.
    """

    def __init__(self, config, node_types: Sequence[str]):
        super().__init__()
        size, n_heads, n_relations = config.hidden_size, config.num_attention_heads, config.num_relations
        self.node_types, self.n_relations = tuple(node_types), n_relations
        self.n_heads, self.head_dim = n_heads, size // n_heads
        self.keeps_unmatched = config.unmatched_edges == "zero_logit"
        self.dropout_prob = config.hidden_dropout_prob
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.ModuleDict({name: nn.Linear(size, size) for name in node_types}) for _ in range(4)
        )
        per_head = (n_relations, n_heads, self.head_dim, self.head_dim)
        self.relation_attention = nn.Parameter(torch.empty(per_head))
        self.relation_message = nn.Parameter(torch.empty(per_head))
        self.relation_prior = nn.Parameter(torch.empty(n_relations, n_heads))
        self.skip = nn.Parameter(torch.empty(len(self.node_types)))
        self.norm = nn.ModuleDict(
            {name: nn.LayerNorm(size, eps=config.layer_norm_eps) for name in node_types if config.use_norm}
        )

    def forward(
        self, hidden_states: Tensor, sizes: Sequence[int], edge_index: Tensor, edge_type: Tensor, dropout: bool
    ) -> tuple[Tensor, Tensor]:
        """New states of the nodes.

        Args:
            hidden_states: (nodes, hidden).
            sizes: number of nodes of each type.
            edge_index: (2, edges).
            edge_type: (edges,) number of the relation of each edge.
            dropout: whether to drop out.

        Returns:
            (nodes, hidden), and the logits of attention (edges, heads), before the softmax over the edges that arrive
            at a node; 0 for edges without a relation.
        """
        nodes = self._of_nodes(hidden_states, sizes)
        logits = hidden_states.new_zeros(len(edge_type), self.n_heads)
        arrived = torch.zeros_like(hidden_states)
        for group in _groups(edge_index[1], len(hidden_states)):
            own = self._attend(nodes, edge_index[:, group], edge_type[group])
            logits, arrived = logits.index_copy(0, group, own[0]), arrived + own[1]
        change = self._projected(self.o_proj, F.gelu(arrived), sizes)
        return self._updated(hidden_states, F.dropout(change, self.dropout_prob, training=dropout), sizes), logits

    def _of_nodes(self, hidden_states: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (nodes, heads, head_dim); keys and values (relations, nodes, heads, head_dim)."""
        queries, keys, values = (
            self._projected(projection, hidden_states, sizes).unflatten(1, (self.n_heads, self.head_dim))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        scaled = self.relation_prior[:, :, None, None] * self.head_dim**-0.5
        # nodes are fewer than edges, so they are multiplied before they are gathered
        keys = torch.einsum("nhi,rhij->rnhj", keys, self.relation_attention * scaled)
        return queries, keys, torch.einsum("nhi,rhij->rnhj", values, self.relation_message)

    def _attend(
        self, nodes: tuple[Tensor, Tensor, Tensor], edge_index: Tensor, edge_type: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (edges, heads), and what arrives at the nodes (nodes, hidden)."""
        queries, keys, values = nodes
        places = edges_by_relation(edge_type, self.n_relations)
        edges, targets, n_nodes = torch.cat(places), edge_index[1], len(queries)
        sources = [edge_index[0, own] for own in places]
        of_sources = torch.cat([key.index_select(0, own) for key, own in zip(keys, sources, strict=True)])
        matched = (queries.index_select(0, targets[edges]) * of_sources).sum(dim=-1)
        logits = scatter_sum(matched, edges, len(edge_type))
        if self.keeps_unmatched:
            attention = segment_softmax(logits, targets, n_nodes).index_select(0, edges)
        else:
            attention = segment_softmax(matched, targets[edges], n_nodes)
        messages = torch.cat([value.index_select(0, own) for value, own in zip(values, sources, strict=True)])
        weighted = (messages * attention.unsqueeze(-1)).flatten(1)
        return logits, scatter_sum(weighted, targets[edges], n_nodes)

    def _projected(self, projection: nn.ModuleDict, states: Tensor, sizes: Sequence[int]) -> Tensor:
        """(nodes, hidden), each type by its own layer."""
        parts = zip(self.node_types, states.split(list(sizes)), strict=True)
        return torch.cat([projection[name](part) for name, part in parts])

    def _updated(self, old: Tensor, change: Tensor, sizes: Sequence[int]) -> Tensor:
        """(nodes, hidden), the change and the old state, weighted by type."""
        share = self.skip.sigmoid().repeat_interleave(torch.tensor(list(sizes), device=old.device)).unsqueeze(1)
        mixed = change * share + old * (1 - share)
        return self._projected(self.norm, mixed, sizes) if self.norm else mixed


def _groups(targets: Tensor, n_nodes: int) -> list[Tensor]:
    """Numbers of the edges, those of a target together; several groups only where no gradient keeps them all."""
    if torch.is_grad_enabled() or len(targets) <= EDGES_AT_ONCE:
        return [torch.arange(len(targets), device=targets.device)]
    group_of_node = torch.bincount(targets, minlength=n_nodes).cumsum(0) // EDGES_AT_ONCE
    group = group_of_node[targets]
    return [(group == number).nonzero().flatten() for number in group.unique()]


def init_relations(layer: HeterogeneousGraphLayer) -> None:
    """What belongs to relations and types: each matrix of a head by Xavier's rule, the rest ones."""
    bound = (3 / layer.head_dim) ** 0.5
    for weight in (layer.relation_attention, layer.relation_message):
        init.uniform_(weight, -bound, bound)
    init.ones_(layer.relation_prior)
    init.ones_(layer.skip)


class HeterogeneousGraphPreTrainedModel(PlainPreTrainedModel):
    """Base class of models with these layers."""

    _no_split_modules = ["HeterogeneousGraphLayer"]
    # losses are means over a graph
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            draw_linear(module)
        elif isinstance(module, HeterogeneousGraphLayer):
            init_relations(module)
        else:
            super()._init_weights(module)


def original_names(node_types: Sequence[str], ours: str = "model.layers", theirs: str = "gcs") -> WeightMap:
    """The names that the originals gave to the tensors of their layers -> ours.

    Args:
        node_types: names of the types, in the order of the original's numbers.
        ours: where the layers are in our model.
        theirs: where they are in the original.
    """
    names: WeightMap = {}
    parts = {"q_linears": "q_proj", "k_linears": "k_proj", "v_linears": "v_proj", "a_linears": "o_proj"}
    for number, name in enumerate(node_types):
        for part, our_part in (parts | {"norms": "norm"}).items():
            for kind in ("weight", "bias"):
                names[f"{theirs}.{{}}.base_conv.{part}.{number}.{kind}"] = f"{ours}.{{}}.{our_part}.{name}.{kind}"
    own = {"relation_att": "relation_attention", "relation_msg": "relation_message", "relation_pri": "relation_prior"}
    for part, our_part in (own | {"skip": "skip"}).items():
        names[f"{theirs}.{{}}.base_conv.{part}"] = f"{ours}.{{}}.{our_part}"
    return names
