"""Configuration of scFoundation."""

import math
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.plans import SHARDED, SPLIT


@auto_docstring(
    custom_intro="""
    Configuration of scFoundation. The defaults are the released model (Hao et al., Nature Methods 2024).
    """
)
@strict
class ScFoundationConfig(PreTrainedConfig):
    r"""
    vocab_size (`int`, *optional*, defaults to 19267):
        Rows of the gene table: the panel of 19,264 genes in the original's order, the two depth tokens, and padding.
    num_genes (`int`, *optional*, defaults to 19264):
        Genes of the panel, ids 0 to `num_genes - 1`. The decoder predicts these; genes that are added later are read
        by the encoder and not predicted.
    target_token_id (`int`, *optional*):
        Id of `<T>`, whose value is the log10 of the total count that is asked for: always `num_genes`.
    source_token_id (`int`, *optional*):
        Id of `<S>`, whose value is the log10 of the cell's total count: always `num_genes + 1`.
    pad_token_id (`int`, *optional*):
        Id of `<pad>`: `num_genes + 2` by default.
    hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
        Dropout of the encoder: attention weights, attention output and feed-forward part.
    num_bins (`int`, *optional*, defaults to 100):
        Soft bins that a value is spread over.
    bin_alpha (`float`, *optional*, defaults to 1.0):
        Weight of the residual in the layer that spreads a value over the bins.
    mask_value (`float`, *optional*, defaults to 102.0):
        Value that stands for a masked one in the decoder's input; compared exactly, wherever it occurs.
    pad_value (`float`, *optional*, defaults to 103.0):
        Value at padded positions; compared exactly, wherever it occurs.
    decoder_hidden_size (`int`, *optional*, defaults to 512):
        Width of the decoder.
    num_decoder_layers (`int`, *optional*, defaults to 6):
        Performer layers of the decoder.
    num_decoder_attention_heads (`int`, *optional*, defaults to 8):
        Heads of the decoder.
    decoder_head_dim (`int`, *optional*, defaults to 64):
        Width of a head of the decoder; heads together may be wider than `decoder_hidden_size`.
    decoder_intermediate_size (`int`, *optional*):
        Inner width of the decoder's feed-forward parts; four times `decoder_hidden_size` by default.
    decoder_dropout_prob (`float`, *optional*, defaults to 0.0):
        Dropout of the decoder.
    num_random_features (`int`, *optional*):
        Random features of the decoder's attention; `int(decoder_head_dim * log(decoder_head_dim))` by default.
    key_maximum (`str`, *optional*, defaults to `"batch"`):
        Quirk of the original: `"batch"` takes the maximum that stabilises the exponentials of the decoder's keys over
        the whole batch, so that a cell depends on its batch-mates. `"sequence"` takes it over the cell, which equals
        the original at batch size 1; tasks use that.
    redraw_interval (`int`, *optional*, defaults to 1000):
        Training forwards after which the decoder's random features are drawn anew; None for never.
    pooling (`str`, *optional*, defaults to `"all"`):
        How the cell embedding is made: `"all"` joins `<S>`, `<T>`, and maximum and mean over the genes (four times
        `hidden_size`); `"max"` is the maximum over all tokens.
    cell_embedding_size (`int`, *optional*):
        Width of the cell embedding, which `pooling` determines.
    normalize_cell_embedding (`bool`, *optional*, defaults to `False`):
        Whether `embed` divides cell embeddings by their L2 norm.
    classifier_hidden_size (`int`, *optional*, defaults to 256):
        Inner width of the cell classifier.
    classifier_reads_depth (`bool`, *optional*, defaults to `False`):
        Whether the classifier sees `<T>` and `<S>`; the published fine-tuning has none.
    pooling_includes_padding (`bool`, *optional*, defaults to `True`):
        Quirk of the original's fine-tuning: the classifier's maximum takes padded positions in, so that a cell depends
        on its batch-mates. False leaves them out, which equals the original at batch size 1; `annotate` uses that.
    classifier_pad_position_id (`int`, *optional*, defaults to 103):
        Quirk of the original's fine-tuning: padded positions of the classifier carry the gene embedding of this id,
        the pad value taken for a gene. None gives them the row of `pad_token_id`. Real positions never see it.
    """

    model_type = "scfoundation"
    base_model_fsdp_plan = SHARDED | {"norm": "keep_full_weight"}
    base_model_tp_plan = SPLIT
    keys_to_ignore_at_inference = ["cell_embedding", "gene_hidden_state"]

    vocab_size: int = 19267
    num_genes: int = 19264
    target_token_id: int | None = None
    source_token_id: int | None = None
    pad_token_id: int | None = None
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float | int = 0.1
    layer_norm_eps: float = 1e-5
    num_bins: int = 100
    bin_alpha: float | int = 1.0
    mask_value: float | int = 102.0
    pad_value: float | int = 103.0
    decoder_hidden_size: int = 512
    num_decoder_layers: int = 6
    num_decoder_attention_heads: int = 8
    decoder_head_dim: int = 64
    decoder_intermediate_size: int | None = None
    decoder_dropout_prob: float | int = 0.0
    num_random_features: int | None = None
    key_maximum: Literal["batch", "sequence"] = "batch"
    redraw_interval: int | None = 1000
    pooling: Literal["all", "max"] = "all"
    cell_embedding_size: int | None = None
    normalize_cell_embedding: bool = False
    classifier_hidden_size: int = 256
    classifier_reads_depth: bool = False
    pooling_includes_padding: bool = True
    classifier_pad_position_id: int | None = 103

    def __post_init__(self, **kwargs):
        if self.target_token_id is None:
            self.target_token_id = self.num_genes
        if self.source_token_id is None:
            self.source_token_id = self.num_genes + 1
        if self.pad_token_id is None:
            self.pad_token_id = self.num_genes + 2
        if self.decoder_intermediate_size is None:
            self.decoder_intermediate_size = 4 * self.decoder_hidden_size
        if self.num_random_features is None:
            self.num_random_features = int(self.decoder_head_dim * math.log(self.decoder_head_dim))
        if self.cell_embedding_size is None:
            self.cell_embedding_size = self._pooled_size
        super().__post_init__(**kwargs)

    @property
    def num_positions(self) -> int:
        """Positions of the decoder: the genes, `<T>` and `<S>`."""
        return self.num_genes + 2

    @property
    def _pooled_size(self) -> int:
        return (4 if self.pooling == "all" else 1) * self.hidden_size

    def validate_architecture(self):
        """Refuse sizes and options that contradict one another."""
        if self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"`hidden_size` must be a multiple of `num_attention_heads`, got {self.hidden_size} and "
                f"{self.num_attention_heads}."
            )
        if (self.target_token_id, self.source_token_id) != (self.num_genes, self.num_genes + 1):
            raise ValueError(
                f"`<T>` and `<S>` stand behind the genes: `target_token_id` and `source_token_id` must be "
                f"{self.num_genes} and {self.num_genes + 1}, got {self.target_token_id} and {self.source_token_id}."
            )
        if self.vocab_size < self.num_positions:
            raise ValueError(
                f"`vocab_size` must be at least {self.num_positions}, the rows of the {self.num_genes} genes of the "
                f"panel, `<T>` and `<S>`, got {self.vocab_size}."
            )
        for name in ("pad_token_id", "classifier_pad_position_id"):
            row = getattr(self, name)
            if row is not None and not 0 <= row < self.vocab_size:
                raise ValueError(f"`{name}` must be a row of the gene table, 0 to {self.vocab_size - 1}, got {row}.")
        if self.cell_embedding_size is None:
            # given so at loading, together with another pooling
            self.cell_embedding_size = self._pooled_size
        if self.cell_embedding_size != self._pooled_size:
            raise ValueError(
                f"`cell_embedding_size` must be {self._pooled_size} with `pooling={self.pooling!r}`, got "
                f"{self.cell_embedding_size}."
            )
        if self.num_random_features < 1:
            raise ValueError(f"`num_random_features` must be at least 1, got {self.num_random_features}.")


__all__ = ["ScFoundationConfig"]
