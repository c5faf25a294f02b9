"""Configuration of CIForm."""

from huggingface_hub.dataclasses import strict
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.configuration import CheckedConfig


@auto_docstring(
    custom_intro="""
    Configuration of CIForm; the defaults are the published ones.
    """
)
@strict
class CIFormConfig(CheckedConfig):
    r"""
    num_genes (`int`, *optional*):
        Genes of a cell, in the order of the processor; None = any number, at least `patch_size`.
    patch_size (`int`, *optional*, defaults to 1024):
        Genes per token, and the width of the model.
    num_hidden_layers (`int`, *optional*, defaults to 1):
        Layers of the encoder.
    num_attention_heads (`int`, *optional*, defaults to 64):
        Heads of each.
    intermediate_size (`int`, *optional*, defaults to 1024):
        Width of the feed-forward part.
    hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
        Dropout, that of attention included.
    layer_norm_eps (`float`, *optional*, defaults to 1e-5):
        Epsilon of the layer norms.
    overlap_last (`bool`, *optional*, defaults to `True`):
        Whether a last patch that would be too short takes genes of the one before it; else it is filled with zeros.
    scale_patches (`bool`, *optional*, defaults to `True`):
        Whether each patch of a cell is shifted to mean 0 and scaled to deviation 1.
    """

    model_type = "ciform"
    keys_to_ignore_at_inference = ["cell_embedding"]

    num_genes: int | None = None
    patch_size: int = 1024
    num_hidden_layers: int = 1
    num_attention_heads: int = 64
    intermediate_size: int = 1024
    hidden_dropout_prob: float | int = 0.1
    layer_norm_eps: float = 1e-5
    overlap_last: bool = True
    scale_patches: bool = True

    @property
    def hidden_size(self) -> int:
        return self.patch_size

    @property
    def cell_embedding_size(self) -> int:
        return self.patch_size

    def validate_architecture(self):
        """Refuse sizes that contradict one another."""
        if self.patch_size % self.num_attention_heads:
            raise ValueError(
                f"`patch_size` ({self.patch_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})."
            )
        if self.num_genes is not None and self.num_genes < self.patch_size:
            raise ValueError(
                f"A cell of {self.num_genes:,} genes does not fill one patch of {self.patch_size:,}: give cells with "
                "more genes, take more of them (`n_top_genes`), or choose a smaller `patch_size` (a multiple of "
                "`num_attention_heads`)."
            )


__all__ = ["CIFormConfig"]
