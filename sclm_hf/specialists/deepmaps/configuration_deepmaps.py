"""Configuration of DeepMAPS."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.configuration import CheckedConfig


@auto_docstring(
    custom_intro="""
    Configuration of DeepMAPS; the defaults are the published ones for several sets of RNA.
    """
)
@strict
class DeepMAPSConfig(CheckedConfig):
    r"""
    gene_input_size (`int`, *optional*, defaults to 256):
        Numbers that describe a gene (or protein): its values over the cells of training.
    cell_input_size (`int`, *optional*, defaults to 256):
        Numbers that describe a cell: its values over the genes.
    encoder_sizes (`list[int]`, *optional*, defaults to `[512, 256]`):
        Widths of the encoder of each type of nodes; without any, inputs are taken as they come.
    decodes_inputs (`bool`, *optional*, defaults to `True`):
        Whether decoders make the inputs from the codes again, which the encoders are trained by.
    detaches_codes (`bool`, *optional*, defaults to `False`):
        Whether the graph does not train the encoders, as where they were trained before.
    hidden_size (`int`, *optional*, defaults to 104):
        Width of the states of nodes.
    num_hidden_layers (`int`, *optional*, defaults to 2):
        Layers of the graph transformer; published are 4 for RNA with proteins.
    num_attention_heads (`int`, *optional*, defaults to 13):
        Heads of each.
    num_relations (`int`, *optional*, defaults to 2):
        Relations between nodes: from gene to cell, and from cell to gene.
    hidden_dropout_prob (`float`, *optional*, defaults to 0.0):
        Dropout.
    use_norm (`bool`, *optional*, defaults to `True`):
        Whether layers end with a layer norm for each type.
    layer_norm_eps (`float`, *optional*, defaults to 1e-5):
        Epsilon of the layer norms.
    unmatched_edges (`str`, *optional*, defaults to `"drop"`):
        What becomes of edges whose relation is none of `num_relations`, such as those from a node to itself: `"drop"`,
        or `"zero_logit"`, by which they carry nothing and still take their share of the attention, as in the original.
    """

    model_type = "deepmaps"
    keys_to_ignore_at_inference = ["attentions"]

    gene_input_size: int = 256
    cell_input_size: int = 256
    encoder_sizes: list[int] | None = None
    decodes_inputs: bool = True
    detaches_codes: bool = False
    hidden_size: int = 104
    num_hidden_layers: int = 2
    num_attention_heads: int = 13
    num_relations: int = 2
    hidden_dropout_prob: float | int = 0.0
    use_norm: bool = True
    layer_norm_eps: float = 1e-5
    unmatched_edges: Literal["drop", "zero_logit"] = "drop"

    def __post_init__(self, **kwargs):
        if self.encoder_sizes is None:
            self.encoder_sizes = [512, 256]
        super().__post_init__(**kwargs)

    @property
    def cell_embedding_size(self) -> int:
        return self.hidden_size

    def validate_architecture(self):
        """Refuse sizes that contradict one another."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})."
            )
        if self.decodes_inputs and not self.encoder_sizes:
            raise ValueError("Without `encoder_sizes` there are no codes to decode: set `decodes_inputs` to False.")


__all__ = ["DeepMAPSConfig"]
