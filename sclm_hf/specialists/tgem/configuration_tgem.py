"""Configuration of T-GEM."""

from huggingface_hub.dataclasses import strict
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.configuration import CheckedConfig

ACTIVATIONS = ("none", "relu", "leaky_relu", "gelu")


@auto_docstring(
    custom_intro="""
    Configuration of T-GEM; the defaults are the published ones for single cells.
    """
)
@strict
class TGEMConfig(CheckedConfig):
    r"""
    num_genes (`int`, *optional*, defaults to 1000):
        Genes of a cell, in the order of the processor; each has weights of its own.
    num_hidden_layers (`int`, *optional*, defaults to 3):
        Layers of attention among genes.
    num_attention_heads (`int`, *optional*, defaults to 5):
        Heads of each.
    hidden_dropout_prob (`float`, *optional*, defaults to 0.3):
        Dropout of what a layer adds.
    final_activation (`str`, *optional*, defaults to `"leaky_relu"`):
        Activation before the classifier: `"none"`, `"relu"`, `"leaky_relu"` (slope 0.1) or `"gelu"`.
    mask_self (`bool`, *optional*, defaults to `True`):
        Whether a gene takes nothing from itself; what it gives to the others does not grow by that, as published.
    share_layer_norm (`bool`, *optional*, defaults to `True`):
        Whether all layers have one layer norm.
    layer_norm_eps (`float`, *optional*, defaults to 1e-6):
        What is added to the deviation in the layer norms.
    """

    model_type = "tgem"
    keys_to_ignore_at_inference = ["cell_embedding", "attentions"]

    num_genes: int = 1000
    num_hidden_layers: int = 3
    num_attention_heads: int = 5
    hidden_dropout_prob: float | int = 0.3
    final_activation: str = "leaky_relu"
    mask_self: bool = True
    share_layer_norm: bool = True
    layer_norm_eps: float = 1e-6

    @property
    def hidden_size(self) -> int:
        return self.num_genes

    @property
    def cell_embedding_size(self) -> int:
        return self.num_genes

    def validate_architecture(self):
        """Refuse activations that are unknown, and cells of one gene, which has no other to look at."""
        if self.final_activation not in ACTIVATIONS:
            raise ValueError(
                f"`final_activation` must be one of {', '.join(ACTIVATIONS)}, got {self.final_activation!r}."
            )
        if self.num_genes < 2:
            raise ValueError(f"`num_genes` must be at least 2, got {self.num_genes}: genes look at one another.")


__all__ = ["TGEMConfig"]
