"""Configuration of iSEEEK."""

from huggingface_hub.dataclasses import strict
from transformers import BertConfig
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.plans import SHARDED_BERT, SPLIT_BERT


@auto_docstring(
    custom_intro="""
    Configuration of iSEEEK: that of BERT, and what the package needs beyond it. Published are the width and the length
    of a cell; the other sizes stand in the released `config.json`, and their defaults here are BERT's.
    """
)
@strict
class ISEEEKConfig(BertConfig):
    r"""
    cell_embedding_size (`int`, *optional*):
        Width of the cell embedding, the last hidden state of `[CLS]`: always `hidden_size`.
    normalize_cell_embedding (`bool`, *optional*, defaults to `False`):
        Whether `embed` divides cell embeddings by their L2 norm; the published procedure does not.
    """

    model_type = "iseeek"
    base_model_fsdp_plan = SHARDED_BERT
    base_model_tp_plan = SPLIT_BERT
    keys_to_ignore_at_inference = ["cell_embedding", "gene_embeddings"]

    hidden_size: int = 576
    intermediate_size: int = 2304
    cell_embedding_size: int | None = None
    normalize_cell_embedding: bool = False

    def __post_init__(self, **kwargs):
        if self.cell_embedding_size is None:
            self.cell_embedding_size = self.hidden_size
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(cls, *args, **kwargs):
        """As transformers', and the folders of the authors, which call themselves `bert`, are ours as well."""
        settings, kwargs = super().get_config_dict(*args, **kwargs)
        if settings.get("model_type") == "bert":
            settings["model_type"] = cls.model_type
        return settings, kwargs

    def validate_architecture(self):
        """Refuse sizes and options that contradict one another."""
        if self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"`hidden_size` must be a multiple of `num_attention_heads`, got {self.hidden_size} and "
                f"{self.num_attention_heads}."
            )
        if self.cell_embedding_size != self.hidden_size:
            raise ValueError(
                f"`cell_embedding_size` must equal `hidden_size` ({self.hidden_size}), got {self.cell_embedding_size}."
            )
        if self.is_decoder or self.add_cross_attention:
            raise ValueError("iSEEEK is an encoder: `is_decoder` and `add_cross_attention` must be False.")


__all__ = ["ISEEEKConfig"]
