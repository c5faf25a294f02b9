"""Configuration of scTransSort."""

import math

from huggingface_hub.dataclasses import strict
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.configuration import CheckedConfig


@auto_docstring(
    custom_intro="""
    Configuration of scTransSort; the defaults are the published ones, those of ViT-Base.

    The image of 2,000 genes is a square of 45 pixels in the middle of 224, all others being 0. With `image_size` 48 it
    holds the same genes in 9 patches instead of 196, and a step takes about a twentieth of the time.
    """
)
@strict
class ScTransSortConfig(CheckedConfig):
    r"""
    num_genes (`int`, *optional*):
        Genes of a cell, in the order of the processor; None = as many as fit in the image.
    image_size (`int`, *optional*, defaults to 224):
        Height and width of the image.
    patch_size (`int`, *optional*, defaults to 16):
        Height and width of a patch.
    num_channels (`int`, *optional*, defaults to 3):
        How often the image is repeated.
    hidden_size (`int`, *optional*, defaults to 768):
        Width of the tokens.
    num_hidden_layers (`int`, *optional*, defaults to 12):
        Layers of the encoder.
    num_attention_heads (`int`, *optional*, defaults to 12):
        Heads of each.
    intermediate_size (`int`, *optional*, defaults to 3072):
        Width of the feed-forward parts.
    hidden_dropout_prob (`float`, *optional*, defaults to 0.0):
        Dropout, that of attention included.
    layer_norm_eps (`float`, *optional*, defaults to 1e-6):
        Epsilon of the layer norms.
    raw_skip (`bool`, *optional*, defaults to `True`):
        Whether the classifier reads the pixels beside what the encoder says, which makes a regression of it.
    crop_genes (`bool`, *optional*, defaults to `False`):
        Whether genes at the border are left out where there are more than the image has pixels, as published; else
        that is an error.
    """

    model_type = "sctranssort"
    keys_to_ignore_at_inference = ["cell_embedding"]

    num_genes: int | None = None
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float | int = 0.0
    layer_norm_eps: float = 1e-6
    raw_skip: bool = True
    crop_genes: bool = False

    @property
    def cell_embedding_size(self) -> int:
        return self.hidden_size

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    def validate_architecture(self):
        """Refuse sizes that contradict one another."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})."
            )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"`image_size` ({self.image_size}) must be a multiple of `patch_size` ({self.patch_size})."
            )
        if self.num_genes is not None and not self.crop_genes and (side := side_of(self.num_genes)) > self.image_size:
            raise ValueError(
                f"{self.num_genes:,} genes make a square of {side} pixels, which an `image_size` of {self.image_size} "
                f"has no place for: take {-(-side // self.patch_size) * self.patch_size} or more, or fewer genes "
                "(`n_top_genes`); with `crop_genes` those at the border are left out."
            )


def side_of(num_genes: int) -> int:
    """Side of the square that genes are laid out in; one more than need be for square numbers, as published."""
    return math.isqrt(num_genes) + 1


__all__ = ["ScTransSortConfig"]
