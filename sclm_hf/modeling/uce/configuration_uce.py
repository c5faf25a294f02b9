"""Configuration of UCE."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.plans import SPLIT


@auto_docstring(
    custom_intro="""
    Configuration of UCE. The defaults are the released 4-layer model (Rosen et al., bioRxiv 2023); the large one has
    33 layers.
    """
)
@strict
class UCEConfig(PreTrainedConfig):
    r"""
    vocab_size (`int`, *optional*, defaults to 145469):
        Rows of the protein table: special tokens, the proteins of all species, chromosomes.
    protein_embedding_size (`int`, *optional*, defaults to 5120):
        Width of the protein embeddings (ESM2 with 15 billion parameters).
    hidden_dropout_prob (`float`, *optional*, defaults to 0.05):
        Dropout after the positions, in the layers, on attention weights and in the decoders.
    max_position_embeddings (`int`, *optional*, defaults to 1536):
        Largest number of tokens of a cell.
    cls_token_id (`int`, *optional*, defaults to 3):
        Id of `<cls>`, whose position carries the cell.
    decoder_size (`int`, *optional*, defaults to 1024):
        Width of the first block of the decoder that makes cell embeddings.
    cell_embedding_size (`int`, *optional*, defaults to 1280):
        Width of the cell embedding.
    normalize_cell_embedding (`bool`, *optional*, defaults to `True`):
        Whether `embed` divides cell embeddings by their L2 norm; the model has done so already.
    expression_decoder_sizes (`list[int]`, *optional*):
        Widths of the blocks of the decoder of expression; 2048, 512 and 128 by default.
    padding_is_additive (`bool`, *optional*, defaults to `True`):
        Quirk of the original: attention to padding is not masked but favoured by 1 in its logit, so that a cell
        depends on the longest one of its batch. False masks padding, which equals the original at batch size 1;
        `embed` uses that.
    normalize_queried_genes (`bool`, *optional*, defaults to `False`):
        Whether `UCEForMaskedExpression` divides the protein embeddings of the genes asked for by their L2 norm, as the
        tokens of a cell always are. The published model takes them as they come; which of the two it was trained with
        is not known.
    """

    model_type = "uce"
    base_model_fsdp_plan = {"embeddings.projection": "free_full_weight", "layers.*": "free_full_weight"}
    base_model_tp_plan = SPLIT
    keys_to_ignore_at_inference = ["cell_embedding"]

    vocab_size: int = 145469
    protein_embedding_size: int = 5120
    hidden_size: int = 1280
    num_hidden_layers: int = 4
    num_attention_heads: int = 20
    intermediate_size: int = 5120
    hidden_dropout_prob: float | int = 0.05
    layer_norm_eps: float = 1e-5
    max_position_embeddings: int = 1536
    pad_token_id: int | None = 0
    cls_token_id: int | None = 3
    decoder_size: int = 1024
    cell_embedding_size: int = 1280
    normalize_cell_embedding: bool = True
    expression_decoder_sizes: list[int] | None = None
    padding_is_additive: bool = True
    normalize_queried_genes: bool = False

    def __post_init__(self, **kwargs):
        if self.expression_decoder_sizes is None:
            self.expression_decoder_sizes = [2048, 512, 128]
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Refuse sizes that contradict one another."""
        if self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"`hidden_size` must be a multiple of `num_attention_heads`, got {self.hidden_size} and "
                f"{self.num_attention_heads}."
            )
        if self.hidden_size % 2 != 0:
            raise ValueError(
                f"`hidden_size` must be even, as positions are sines and cosines, got {self.hidden_size}."
            )


__all__ = ["UCEConfig"]
