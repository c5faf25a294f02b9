"""Attention that the families share, behind transformers' attention interface."""

from .eager import eager_attention_forward

__all__ = ["eager_attention_forward"]
