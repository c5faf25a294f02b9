"""Configuration of STGRNS."""

from huggingface_hub.dataclasses import strict
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.configuration import CheckedConfig


@auto_docstring(
    custom_intro="""
    Configuration of STGRNS; the defaults are the published ones.
    """
)
@strict
class STGRNSConfig(CheckedConfig):
    r"""
    window_size (`int`, *optional*, defaults to 100):
        Cells per token, which holds them for both genes; the width of the model is twice as much.
    num_hidden_layers (`int`, *optional*, defaults to 1):
        Layers of the encoder.
    num_attention_heads (`int`, *optional*, defaults to 2):
        Heads of each.
    intermediate_size (`int`, *optional*, defaults to 256):
        Width of the feed-forward part.
    hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
        Dropout, that of attention included.
    layer_norm_eps (`float`, *optional*, defaults to 1e-5):
        Epsilon of the layer norms.
    """

    model_type = "stgrns"
    keys_to_ignore_at_inference = ["cell_embedding"]

    window_size: int = 100
    num_hidden_layers: int = 1
    num_attention_heads: int = 2
    intermediate_size: int = 256
    hidden_dropout_prob: float | int = 0.1
    layer_norm_eps: float = 1e-5

    @property
    def hidden_size(self) -> int:
        return 2 * self.window_size

    def validate_architecture(self):
        """Refuse sizes that contradict one another."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"Twice `window_size` ({self.window_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})."
            )


__all__ = ["STGRNSConfig"]
