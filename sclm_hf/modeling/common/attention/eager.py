"""Plain softmax attention, the reference that every other implementation is compared with."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Attention over `(batch, heads, positions, head_dim)` tensors with an additive mask.

    Returns:
        `(batch, positions, heads, head_dim)` contexts and `(batch, heads, positions, positions)` weights.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.dropout(torch.softmax(scores, dim=-1), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights
