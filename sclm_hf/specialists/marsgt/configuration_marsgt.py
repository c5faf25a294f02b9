"""Configuration of MarsGT."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.configuration import CheckedConfig


@auto_docstring(
    custom_intro="""
    Configuration of MarsGT; the defaults are the published ones but for `num_relations`, `pairs`, `pair_target` and
    `dropout_at_prediction`, where the published code differs from what it means to do.
    """
)
@strict
class MarsGTConfig(CheckedConfig):
    r"""
    cell_input_size (`int`, *optional*, defaults to 2000):
        Numbers that describe a cell: its counts of the genes.
    feature_input_size (`int`, *optional*, defaults to 1000):
        Numbers that describe a gene or a peak: its counts in the cells of training.
    encoder_size (`int`, *optional*, defaults to 256):
        Width of the encoder of each type of nodes.
    hidden_size (`int`, *optional*, defaults to 104):
        Width of the states of nodes. Those of cells are read as scores of so many clusters.
    num_hidden_layers (`int`, *optional*, defaults to 3):
        Layers of the graph transformer.
    num_attention_heads (`int`, *optional*, defaults to 8):
        Heads of each.
    num_relations (`int`, *optional*, defaults to 4):
        Relations between nodes: gene to cell, cell to gene, peak to cell, cell to peak. The published code has 2, by
        which peaks take no part in training.
    hidden_dropout_prob (`float`, *optional*, defaults to 0.3):
        Dropout.
    dropout_at_prediction (`bool`, *optional*, defaults to `False`):
        Whether prediction drops out too, as in the published code.
    use_norm (`bool`, *optional*, defaults to `True`):
        Whether layers end with a layer norm for each type.
    layer_norm_eps (`float`, *optional*, defaults to 1e-5):
        Epsilon of the layer norms.
    unmatched_edges (`str`, *optional*, defaults to `"drop"`):
        What becomes of edges whose relation is none of `num_relations`: `"drop"`, or `"zero_logit"`, by which they
        carry nothing and still take their share of the attention, as in the published code.
    label_smoothing (`float`, *optional*, defaults to 0.1):
        Share of a label that is spread over all clusters.
    pairs (`str`, *optional*, defaults to `"linked"`):
        The pairs of a gene and a peak that are learnt from: `"linked"`, those near one another; or `"all"`, as
        published, by which the others are to say nothing.
    pair_target (`str`, *optional*, defaults to `"aligned"`):
        `"misaligned"` weights the pairs with the potentials of other pairs, as the published code does.
    """

    model_type = "marsgt"
    keys_to_ignore_at_inference = ["attentions", "gene_embedding", "peak_embedding"]

    cell_input_size: int = 2000
    feature_input_size: int = 1000
    encoder_size: int = 256
    hidden_size: int = 104
    num_hidden_layers: int = 3
    num_attention_heads: int = 8
    num_relations: int = 4
    hidden_dropout_prob: float | int = 0.3
    dropout_at_prediction: bool = False
    use_norm: bool = True
    layer_norm_eps: float = 1e-5
    unmatched_edges: Literal["drop", "zero_logit"] = "drop"
    label_smoothing: float | int = 0.1
    pairs: Literal["linked", "all"] = "linked"
    pair_target: Literal["aligned", "misaligned"] = "aligned"

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
        if self.pair_target == "misaligned" and self.pairs != "all":
            raise ValueError('Targets can be misaligned where all pairs are learnt from: set `pairs` to "all".')


__all__ = ["MarsGTConfig"]
