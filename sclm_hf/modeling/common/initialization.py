"""Initial weights that more than one family draws."""

from torch import nn
from transformers import initialization as init


def attention_projection(size: int, *, fused: bool) -> nn.Linear:
    """A square projection of attention as torch's multi-head attention draws it.

    It is a plain linear layer, as tools that adapt or quantise layers know no other; `draw_linear` knows it by its
    `initial_bound`.

    Args:
        size: width of the tokens.
        fused: queries, keys and values, which are drawn as one (3 · size, size) matrix by Xavier's rule.
    """
    layer = nn.Linear(size, size)
    layer.initial_bound = (6 / (4 * size)) ** 0.5 if fused else size**-0.5
    return layer


def draw_linear(layer: nn.Linear) -> None:
    """Weights and bias as torch draws those of a linear layer, or of its multi-head attention, whose biases are 0."""
    bound = getattr(layer, "initial_bound", layer.in_features**-0.5)
    init.uniform_(layer.weight, -bound, bound)
    if hasattr(layer, "initial_bound"):
        init.zeros_(layer.bias)
    elif layer.bias is not None:
        init.uniform_(layer.bias, -bound, bound)
