"""Configuration of transCluster."""

from huggingface_hub.dataclasses import strict
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.configuration import CheckedConfig


@auto_docstring(
    custom_intro="""
    Configuration of transCluster; the defaults are the published ones for most tissues.
    """
)
@strict
class TransClusterConfig(CheckedConfig):
    r"""
    vocab_size (`int`, *optional*, defaults to 200):
        Ids of a score, 0 (padding) included.
    num_components (`int`, *optional*):
        Scores of a cell; None = any number.
    hidden_size (`int`, *optional*, defaults to 40):
        Width of the tokens.
    num_hidden_layers (`int`, *optional*, defaults to 4):
        Layers of the encoder, and of the decoder.
    num_attention_heads (`int`, *optional*, defaults to 5):
        Heads of each.
    intermediate_size (`int`, *optional*, defaults to 128):
        Width of the feed-forward parts.
    hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
        Dropout in encoder and decoder.
    spatial_dropout_prob (`float`, *optional*, defaults to 0.2):
        Probability with which a channel is left out before the convolution.
    conv_filters (`int`, *optional*, defaults to 64):
        Filters of the convolution, and the size of a cell's embedding.
    conv_kernel (`int`, *optional*, defaults to 15):
        Scores that each filter sees.
    layer_norm_eps (`float`, *optional*, defaults to 1e-6):
        Epsilon of the layer norms.
    conv_penalty (`float`, *optional*, defaults to 1e-3):
        What the loss adds per squared weight of the convolution.
    classifier_penalty (`float`, *optional*, defaults to 0.01):
        What the loss adds per squared weight of the classifier.
    dropout_at_prediction (`bool`, *optional*, defaults to `False`):
        Whether dropout of encoder and decoder stays on when cells are named, as in the original, whose answers
        therefore differ from call to call.
    """

    model_type = "transcluster"
    keys_to_ignore_at_inference = ["cell_embedding"]

    vocab_size: int = 200
    num_components: int | None = None
    hidden_size: int = 40
    num_hidden_layers: int = 4
    num_attention_heads: int = 5
    intermediate_size: int = 128
    hidden_dropout_prob: float | int = 0.1
    spatial_dropout_prob: float | int = 0.2
    conv_filters: int = 64
    conv_kernel: int = 15
    layer_norm_eps: float = 1e-6
    conv_penalty: float | int = 1e-3
    classifier_penalty: float | int = 0.01
    dropout_at_prediction: bool = False

    @property
    def cell_embedding_size(self) -> int:
        return self.conv_filters

    def validate_architecture(self):
        """Refuse sizes that contradict one another."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})."
            )
        if self.vocab_size < 3:
            raise ValueError(f"`vocab_size` must be at least 3 (padding and two values), got {self.vocab_size}.")


__all__ = ["TransClusterConfig"]
