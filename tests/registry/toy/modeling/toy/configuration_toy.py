"""Configuration of the toy."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class ToyConfig(PreTrainedConfig):
    """The defaults are the only size there is."""

    model_type = "toy"

    vocab_size: int = 100
    hidden_size: int = 8
    pad_token_id: int | None = 0
    pad_value: float | int = -2.0
    normalize_cell_embedding: bool = False


__all__ = ["ToyConfig"]
