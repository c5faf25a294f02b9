"""Attention that the families share: softmax attention behind transformers' interface, and what transformers lacks.

Performer, flow and cosFormer attention are not registered there: `attn_implementation` chooses among ways to compute
the same softmax attention from a mask of scores, and these are other functions, whose results differ, without scores
to mask; the Performer needs its random features besides.
"""

from .cosformer import cosformer_attention, cosformer_attention_naive
from .eager import eager_attention_forward
from .flow import flow_attention, flow_attention_naive
from .performer import (
    KeySummary,
    PerformerFeatures,
    PerformerRedraw,
    add_keys,
    attention_table,
    empty_summary,
    mean_attention,
    orthogonal_random_features,
    performer_attention,
    performer_attention_naive,
    performer_attention_weights,
    read_table,
    softmax_kernel,
)

__all__ = [
    "KeySummary",
    "PerformerFeatures",
    "PerformerRedraw",
    "add_keys",
    "cosformer_attention",
    "cosformer_attention_naive",
    "attention_table",
    "eager_attention_forward",
    "empty_summary",
    "flow_attention",
    "flow_attention_naive",
    "mean_attention",
    "orthogonal_random_features",
    "performer_attention",
    "performer_attention_naive",
    "performer_attention_weights",
    "read_table",
    "softmax_kernel",
]
