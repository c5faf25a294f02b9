"""Configuration of TransformerST."""

from huggingface_hub.dataclasses import strict
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.configuration import CheckedConfig


@auto_docstring(
    custom_intro="""
    Configuration of TransformerST; the defaults are the published ones, but for the last three, whose other value is
    what the published code does, and for the width of the codes, without which that does not run.
    """
)
@strict
class TransformerSTConfig(CheckedConfig):
    r"""
    num_genes (`int`, *optional*, defaults to 3000):
        Genes of a spot, in the order of the processor.
    feature_hidden_size (`int`, *optional*, defaults to 512):
        Width of the first layer of the encoder of expression.
    code_size (`int`, *optional*, defaults to 64):
        Width of its second layer, and of the codes that it is rounded to.
    num_codes (`int`, *optional*, defaults to 128):
        Number of codes.
    graph_hidden_size (`int`, *optional*, defaults to 128):
        Width of the graph layers.
    graph_output_size (`int`, *optional*, defaults to 64):
        Width of the last graph layer.
    num_hidden_layers (`int`, *optional*, defaults to 3):
        Graph layers.
    num_clusters (`int`, *optional*, defaults to 10):
        Clusters of the second stage of training.
    mix (`float`, *optional*, defaults to 0.5):
        Share of the spatial graph in each graph layer; the rest is that of the pruned graph.
    hidden_dropout_prob (`float`, *optional*, defaults to 0.2):
        Dropout of expression, of attention and of the reconstructions.
    target_update_interval (`int`, *optional*, defaults to 20):
        Steps of the second stage between two looks at what clusters should become.
    code_loss_weight (`float`, *optional*, defaults to 1.0):
        Weight of the loss that draws codes and expression to one another; 0 as published, where codes stay random.
    is_chained (`bool`, *optional*, defaults to `False`):
        Whether in the middle layers the pruned graph reads what the spatial graph has just written.
    along_edges (`bool`, *optional*, defaults to `True`):
        Whether what was gathered spreads once more from the sources of edges to their targets; else the other way.
    """

    model_type = "transformerst"
    keys_to_ignore_at_inference = ["cell_embedding"]

    num_genes: int = 3000
    feature_hidden_size: int = 512
    code_size: int = 64
    num_codes: int = 128
    graph_hidden_size: int = 128
    graph_output_size: int = 64
    num_hidden_layers: int = 3
    num_clusters: int = 10
    mix: float | int = 0.5
    hidden_dropout_prob: float | int = 0.2
    target_update_interval: int = 20
    code_loss_weight: float | int = 1.0
    is_chained: bool = False
    along_edges: bool = True

    @property
    def cell_embedding_size(self) -> int:
        return self.code_size + self.graph_output_size

    def validate_architecture(self):
        """Refuse sizes that make no model."""
        if self.num_hidden_layers < 2:
            raise ValueError(f"`num_hidden_layers` must be at least 2, got {self.num_hidden_layers}.")
        if not 0 <= self.mix <= 1:
            raise ValueError(f"`mix` must be between 0 and 1, got {self.mix}.")


__all__ = ["TransformerSTConfig"]
