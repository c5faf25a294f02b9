"""Configuration of scMoFormer."""

from huggingface_hub.dataclasses import strict
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.configuration import CheckedConfig


@auto_docstring(
    custom_intro="""
    Configuration of scMoFormer; the defaults are the published ones.
    """
)
@strict
class ScMoFormerConfig(CheckedConfig):
    r"""
    num_genes (`int`, *optional*, defaults to 2000):
        Genes of a cell, in the order of the processor.
    num_proteins (`int`, *optional*, defaults to 10):
        Proteins to predict, in the order of the processor.
    feature_size (`int`, *optional*, defaults to 128):
        Width of the features of cells and of genes.
    position_size (`int`, *optional*, defaults to 10):
        Width of the positions of genes and of proteins in their graphs.
    hidden_size (`int`, *optional*, defaults to 512):
        Width of the nodes.
    num_hidden_layers (`int`, *optional*, defaults to 3):
        Layers of the graph.
    num_attention_heads (`int`, *optional*, defaults to 8):
        Heads of attention among cells, among genes and among proteins.
    graph_head_dim (`int`, *optional*, defaults to 64):
        Width of a head among genes and among proteins, which together may be wider than the nodes.
    hidden_dropout_prob (`float`, *optional*, defaults to 0.5):
        Dropout of the nodes.
    attention_dropout_prob (`float`, *optional*, defaults to 0.1):
        Dropout of attention.
    layer_norm_eps (`float`, *optional*, defaults to 1e-5):
        Epsilon of the layer norms.
    """

    model_type = "scmoformer"
    keys_to_ignore_at_inference = ["cell_embedding"]

    num_genes: int = 2000
    num_proteins: int = 10
    feature_size: int = 128
    position_size: int = 10
    hidden_size: int = 512
    num_hidden_layers: int = 3
    num_attention_heads: int = 8
    graph_head_dim: int = 64
    hidden_dropout_prob: float | int = 0.5
    attention_dropout_prob: float | int = 0.1
    layer_norm_eps: float = 1e-5

    @property
    def cell_embedding_size(self) -> int:
        return self.hidden_size * (self.num_hidden_layers + 1)

    def validate_architecture(self):
        """Refuse sizes that contradict one another."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})."
            )


__all__ = ["ScMoFormerConfig"]
