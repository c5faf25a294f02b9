"""Configuration of tGPT."""

from huggingface_hub.dataclasses import strict
from transformers import GPT2Config
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.plans import SHARDED_GPT2


@auto_docstring(
    custom_intro="""
    Configuration of tGPT: that of GPT-2, and what the paper (Shen et al., iScience 2023) says beyond it. The defaults
    are the released model.
    """
)
@strict
class TGPTConfig(GPT2Config):
    r"""
    embed_token_types (`bool`, *optional*, defaults to `True`):
        Quirk of the original: its tokenizer gave token types, all 0, which GPT-2 embeds with the table of genes, so
        that the vector of `<pad>` is added at every position, in training as later. Left out of a call, they are taken
        as zeros. False ignores them, which gives other numbers with the released weights.
    cell_embedding_size (`int`, *optional*):
        Width of the cell embedding: always `hidden_size`.
    normalize_cell_embedding (`bool`, *optional*, defaults to `False`):
        Whether `embed` divides cell embeddings by their L2 norm; the published procedure does not.
    classifier_dropout (`float`, *optional*, defaults to 0.1):
        Dropout before a classifier of cells or genes.
    scale_attn_by_inverse_layer_idx (`bool`, *optional*, defaults to `False`):
        Whether GPT-2 divides attention scores by the number of the layer as well.
    reorder_and_upcast_attn (`bool`, *optional*, defaults to `False`):
        Whether GPT-2 computes attention scores in float32, with the implementation `"eager"`.
    summary_type (`str`, *optional*, defaults to `"cls_index"`):
        Of a head of GPT-2 that tGPT does not have; likewise the other `summary_*`.
    summary_use_proj (`bool`, *optional*, defaults to `True`):
        As `summary_type`.
    summary_activation (`str`, *optional*):
        As `summary_type`.
    summary_proj_to_labels (`bool`, *optional*, defaults to `True`):
        As `summary_type`.
    summary_first_dropout (`float`, *optional*, defaults to 0.1):
        As `summary_type`.
    """

    model_type = "tgpt"
    base_model_fsdp_plan = SHARDED_GPT2
    keys_to_ignore_at_inference = ["past_key_values", "cell_embedding", "gene_embeddings"]

    vocab_size: int = 21150
    n_embd: int = 1024
    n_layer: int = 8
    n_head: int = 16
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = 0
    embed_token_types: bool = True
    cell_embedding_size: int | None = None
    normalize_cell_embedding: bool = False
    classifier_dropout: float | int = 0.1

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        # after transformers has read the sizes by their other names, such as `hidden_size`
        if self.cell_embedding_size is None:
            self.cell_embedding_size = self.n_embd

    @classmethod
    def get_config_dict(cls, *args, **kwargs):
        """As transformers', and the folders of the authors, which call themselves `gpt2`, are ours as well."""
        settings, kwargs = super().get_config_dict(*args, **kwargs)
        if settings.get("model_type") == "gpt2":
            settings["model_type"] = cls.model_type
        return settings, kwargs

    def validate_architecture(self):
        """Refuse sizes and options that contradict one another."""
        if self.n_embd % self.n_head != 0:
            raise ValueError(f"`n_embd` must be a multiple of `n_head`, got {self.n_embd} and {self.n_head}.")
        if self.cell_embedding_size != self.n_embd:
            raise ValueError(
                f"`cell_embedding_size` must equal `n_embd` ({self.n_embd}), got {self.cell_embedding_size}."
            )
        if self.add_cross_attention:
            raise ValueError("tGPT has no encoder to attend to: `add_cross_attention` must be False.")


__all__ = ["TGPTConfig"]
