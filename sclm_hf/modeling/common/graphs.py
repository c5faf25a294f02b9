"""Sums over the edges of a graph, in plain torch.

Edges are a list: `edge_index` (2, edges) int64, sources in row 0 and targets in row 1. Several relations are one list
with the number of a relation beside each edge, or a list for each.
"""

import torch
from torch import Tensor

from sclm_hf.errors import ConfigurationError

from .inputs import can_look


def check_edges(edge_index: Tensor, n_sources: int, n_targets: int | None = None, name: str = "edge_index") -> None:
    """Refuse what is no list of edges between such nodes.

    Args:
        edge_index: (2, edges).
        n_sources: how many nodes there are, edges may come from.
        n_targets: how many they may lead to; None = the same nodes.
        name: how the user calls the list.

    Raises:
        ConfigurationError: it has another shape or kind, or names nodes that are not there.
    """
    if edge_index.ndim != 2 or edge_index.shape[0] != 2 or edge_index.dtype != torch.int64:
        raise ConfigurationError(
            f"`{name}` must be (2, edges) int64, sources above targets; got {tuple(edge_index.shape)} of "
            f"{edge_index.dtype}."
        )
    if not can_look(edge_index) or not edge_index.numel():
        return
    for row, (end, n_nodes) in enumerate((("from", n_sources), ("to", n_sources if n_targets is None else n_targets))):
        smallest, largest = (int(number) for number in edge_index[row].aminmax())
        if smallest < 0 or largest >= n_nodes:
            raise ConfigurationError(
                f"`{name}` must lead {end} nodes 0 to {n_nodes - 1}; there are numbers from {smallest} to {largest}."
            )


def scatter_sum(values: Tensor, targets: Tensor, n_targets: int) -> Tensor:
    """The sum of what arrives at each target.

    Args:
        values: (edges, …).
        targets: (edges,) number of the node that each arrives at.
        n_targets: how many nodes there are.

    Returns:
        (n_targets, …); zeros where nothing arrives.
    """
    return values.new_zeros(n_targets, *values.shape[1:]).index_add(0, targets, values)


def degrees(targets: Tensor, n_targets: int) -> Tensor:
    """(n_targets,) float32, how many edges arrive at each."""
    return scatter_sum(torch.ones_like(targets, dtype=torch.float32), targets, n_targets)


def segment_softmax(logits: Tensor, targets: Tensor, n_targets: int) -> Tensor:
    """The softmax over the edges that arrive at the same target.

    Args:
        logits: (edges, …), each column by itself.
        targets: (edges,) number of the node that each arrives at.
        n_targets: how many nodes there are.

    Returns:
        (edges, …), which sum to 1 at every target that has edges.
    """
    spread = targets.view(-1, *(1,) * (logits.ndim - 1)).expand_as(logits)
    highest = logits.new_full((n_targets, *logits.shape[1:]), -torch.inf)
    highest = highest.scatter_reduce(0, spread, logits.detach(), "amax")
    raised = (logits - highest.index_select(0, targets)).exp()
    return raised / scatter_sum(raised, targets, n_targets).index_select(0, targets)


def edges_by_relation(edge_type: Tensor, n_relations: int) -> list[Tensor]:
    """The numbers of the edges of each relation; those of a higher number are in none.

    Args:
        edge_type: (edges,) number of the relation of each.
        n_relations: how many relations there are.
    """
    return [(edge_type == relation).nonzero().flatten() for relation in range(n_relations)]
