"""Configuration of dual encoders of cells and text."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import auto_docstring


@auto_docstring(
    custom_intro="""
    Configuration of a cell-text dual encoder: an encoder of cells and an encoder of texts, each with a projection into
    the space that they share.
    """
)
@strict
class CellTextDualEncoderConfig(PreTrainedConfig):
    r"""
    cell_config (`dict` or `PreTrainedConfig`, *optional*):
        Configuration of the cell encoder, one of the families of this package; by default a new scGPT.
    text_config (`dict` or `PreTrainedConfig`, *optional*):
        Configuration of the text encoder, any encoder or causal language model of transformers; by default a new BERT.
    projection_dim (`int`, *optional*, defaults to 256):
        Width of the shared space.
    projection (`str`, *optional*, defaults to `"linear"`):
        How both towers reach it: `"linear"`, or `"mlp"`, a linear path with a two-layer network beside it, normalised.
    text_pooling (`str`, *optional*, defaults to `"mean"`):
        What stands for a text: the mean of its tokens, the `"last"` (causal language models) or the first (`"cls"`).
    logit_scale_init_value (`float`, *optional*, defaults to 2.6592):
        Logarithm of the inverse temperature at the start: ln(1 / 0.07) as in CLIP; 2.9957 for LangCell's 0.05.
    matching_layers (`int`, *optional*, defaults to 0):
        Layers of the matching head, in which the tokens of a text attend to those of a cell; 0 = no such head.
    matching_heads (`int`, *optional*, defaults to 4):
        Attention heads of each of these layers.
    similarity_weight (`float`, *optional*, defaults to 0.1):
        With a matching head, the share of the similarities in the probability of a text; the rest is the head's
        (LangCell's published value).
    normalize_cell_embedding (`bool`, *optional*, defaults to `True`):
        Whether `embed` divides cell embeddings by their L2 norm: always, for the space is one of directions.
    cell_embedding_size (`int`, *optional*):
        Width of the cell embedding: always `projection_dim`.
    initializer_range (`float`, *optional*, defaults to 0.02):
        Standard deviation of the weights of new projections.
    """

    model_type = "cell_text_dual_encoder"
    sub_configs_defaults = {
        "cell_config": SubConfigSpec(config_class=AutoConfig, model_type="scgpt"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
    }

    cell_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 256
    projection: Literal["linear", "mlp"] = "linear"
    text_pooling: Literal["mean", "last", "cls"] = "mean"
    logit_scale_init_value: float | int = 2.6592
    matching_layers: int = 0
    matching_heads: int = 4
    similarity_weight: float | int = 0.1
    normalize_cell_embedding: bool = True
    cell_embedding_size: int | None = None
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs):
        if self.cell_embedding_size is None:
            self.cell_embedding_size = self.projection_dim
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Refuse sizes that contradict one another."""
        if self.cell_embedding_size != self.projection_dim:
            raise ValueError(
                f"`cell_embedding_size` must equal `projection_dim` ({self.projection_dim}), got "
                f"{self.cell_embedding_size}."
            )
        if self.matching_layers and self.projection_dim % self.matching_heads:
            raise ValueError(
                f"`projection_dim` ({self.projection_dim}) must be a multiple of `matching_heads` "
                f"({self.matching_heads})."
            )
        if not 0 <= self.similarity_weight <= 1:
            raise ValueError(f"`similarity_weight` must lie between 0 and 1, got {self.similarity_weight}.")


__all__ = ["CellTextDualEncoderConfig"]
