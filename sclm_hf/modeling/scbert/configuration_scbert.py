"""Configuration of scBERT."""

import math
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.plans import SHARDED, SPLIT


@auto_docstring(
    custom_intro="""
    Configuration of scBERT. The defaults are the released model (Yang et al., Nature Machine Intelligence 2022).
    """
)
@strict
class ScBERTConfig(PreTrainedConfig):
    r"""
    vocab_size (`int`, *optional*, defaults to 16908):
        Rows of the gene table: 16,906 genes, `<cls>` after them, and `<pad>`, which the original does not have.
    head_dim (`int`, *optional*, defaults to 64):
        Width of an attention head; heads together are wider than `hidden_size`.
    num_random_features (`int`, *optional*):
        Random features of the Performer's attention; `int(head_dim * log(head_dim))` by default.
    hidden_dropout_prob (`float`, *optional*, defaults to 0.0):
        Dropout of embeddings, after attention and in the feed-forward part.
    classifier_dropout (`float`, *optional*, defaults to 0.0):
        Dropout between the layers of the cell classifier.
    num_bins (`int`, *optional*, defaults to 6):
        Expression bins, bin 0 (not expressed, and below 1 after normalisation) included. The original calls 5 of them
        `bin_num`.
    mask_value (`float`, *optional*):
        Bin at masked positions: `num_bins` by default.
    pad_value (`float`, *optional*):
        Bin at padded positions, which are not attended to: `mask_value` by default.
    cls_token_id (`int`, *optional*, defaults to 16906):
        Id of `<cls>`, the last position of the original; its gene embedding is zero and its value bin 0.
    num_positions (`int`, *optional*):
        Rows of the gene table that the cell classifier reads, by default all but a `<pad>` at the end; genes that are
        added later are not among them.
    freeze_gene_embeddings (`bool`, *optional*, defaults to `True`):
        Whether the gene table, gene2vec (Du et al., BMC Genomics 2019) in the original, is left as it is in training.
        A new model has no such table: False learns one from a random start, as `sclm-hf pretrain` does; with True it
        is zero, and genes are alike to the model.
    key_maximum (`str`, *optional*, defaults to `"batch"`):
        Quirk of the original: `"batch"` takes the maximum that stabilises the keys' exponentials over the whole batch,
        so that a cell depends on its batch-mates. `"sequence"` takes it over the cell, which equals the original at
        batch size 1; `embed` and `annotate` use that. `"head"` takes it over each head of the cell, as later
        Performers do.
    redraw_interval (`int`, *optional*, defaults to 1000):
        Training forwards after which random features are drawn anew, in fine-tuning too; None for never.
    pooling (`str`, *optional*, defaults to `"mean"`):
        How the cell embedding is made: `"mean"` over all positions, `<cls>` included, or `"cls"`. The paper defines
        none; see `ScBERTModel.gene_attention` for what its authors use instead.
    cell_embedding_size (`int`, *optional*):
        Width of the cell embedding: always `hidden_size`.
    normalize_cell_embedding (`bool`, *optional*, defaults to `False`):
        Whether `embed` divides cell embeddings by their L2 norm.
    """

    model_type = "scbert"
    base_model_fsdp_plan = SHARDED | {"norm": "keep_full_weight"}
    base_model_tp_plan = SPLIT
    keys_to_ignore_at_inference = ["cell_embedding", "gene_embeddings"]

    vocab_size: int = 16908
    hidden_size: int = 200
    num_hidden_layers: int = 6
    num_attention_heads: int = 10
    head_dim: int = 64
    num_random_features: int | None = None
    intermediate_size: int = 800
    hidden_dropout_prob: float | int = 0.0
    classifier_dropout: float | int = 0.0
    layer_norm_eps: float = 1e-5
    num_bins: int = 6
    mask_value: float | int | None = None
    pad_value: float | int | None = None
    pad_token_id: int | None = 16907
    cls_token_id: int | None = 16906
    num_positions: int | None = None
    freeze_gene_embeddings: bool = True
    key_maximum: Literal["batch", "sequence", "head"] = "batch"
    redraw_interval: int | None = 1000
    pooling: Literal["mean", "cls"] = "mean"
    cell_embedding_size: int | None = None
    normalize_cell_embedding: bool = False

    def __post_init__(self, **kwargs):
        if self.num_random_features is None:
            self.num_random_features = int(self.head_dim * math.log(self.head_dim))
        if self.mask_value is None:
            self.mask_value = self.num_bins
        if self.pad_value is None:
            self.pad_value = self.mask_value
        if self.num_positions is None:
            self.num_positions = self.vocab_size - (self.pad_token_id == self.vocab_size - 1)
        if self.cell_embedding_size is None:
            self.cell_embedding_size = self.hidden_size
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Refuse sizes and options that contradict one another."""
        if self.cell_embedding_size != self.hidden_size:
            raise ValueError(
                f"`cell_embedding_size` must equal `hidden_size` ({self.hidden_size}), got {self.cell_embedding_size}."
            )
        for name in ("mask_value", "pad_value"):
            if not 0 <= getattr(self, name) <= self.num_bins:
                raise ValueError(
                    f"`{name}` must be a row of the value table, 0 to `num_bins` ({self.num_bins}), got "
                    f"{getattr(self, name)}."
                )
        if not 0 < self.num_positions <= self.vocab_size:
            raise ValueError(f"`num_positions` must be from 1 to {self.vocab_size}, got {self.num_positions}.")
        if self.num_random_features < 1:
            raise ValueError(f"`num_random_features` must be at least 1, got {self.num_random_features}.")


__all__ = ["ScBERTConfig"]
