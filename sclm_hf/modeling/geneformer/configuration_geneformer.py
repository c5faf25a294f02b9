"""Configuration of Geneformer."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import BertConfig
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.plans import SHARDED_BERT, SPLIT_BERT

V1_VOCAB_SIZE = 25426
"""Entries of the dictionary that all released V1 models share; it has no `<cls>` and no `<eos>`."""


@auto_docstring(
    custom_intro="""
    Configuration of Geneformer: that of BERT, and what the paper (Theodoris et al., Nature 2023) says beyond it. The
    defaults are the released Geneformer-V2-316M.
    """
)
@strict
class GeneformerConfig(BertConfig):
    r"""
    has_special_tokens (`bool`, *optional*):
        Whether cells start with `<cls>` and end with `<eos>` (V2) or are genes only (V1). By default False for the
        25,426 entries of the V1 dictionary, else True; a converted folder says so itself.
    pooling (`str`, *optional*):
        How the cell embedding is made: `"cls"` (position 0) or `"mean"` (over the genes, special tokens left out). By
        default `"cls"` with special tokens and `"mean"` without, as published.
    cell_embedding_layer (`int`, *optional*, defaults to -2):
        Which of the `num_hidden_layers + 1` hidden states (0: embeddings) is pooled. The paper takes the layer before
        the last, which generalises better; the authors' code calls it `emb_layer=-1`.
    cell_embedding_size (`int`, *optional*):
        Width of the cell embedding: always `hidden_size`.
    normalize_cell_embedding (`bool`, *optional*, defaults to `False`):
        Whether `embed` divides cell embeddings by their L2 norm; the published procedure does not.
    task_names (`list[str]`, *optional*):
        Names of the tasks of `GeneformerForMultiTaskClassification`.
    num_labels_per_task (`list[int]`, *optional*):
        Number of classes of each task.
    label_names_per_task (`list[list[str]]`, *optional*):
        Names of the classes of each task, in the order of their numbers.
    task_weights (`list[float]`, *optional*):
        Weight of each task's loss; 1 by default.
    multitask_pooling (`str`, *optional*, defaults to `"cls"`):
        What the tasks' heads see: `"cls"` (position 0 of the last layer) or `"attention"` (a learned weighted mean).
    attention_pooling_includes_padding (`bool`, *optional*, defaults to `True`):
        Quirk of the original: the learned weights run over padded positions too, so that a cell depends on its batch.
        False leaves them out, which equals the original at batch size 1.
    """

    model_type = "geneformer"
    base_model_fsdp_plan = SHARDED_BERT
    base_model_tp_plan = SPLIT_BERT
    keys_to_ignore_at_inference = ["cell_embedding", "gene_embeddings", "losses"]

    vocab_size: int = 20275
    hidden_size: int = 1152
    num_hidden_layers: int = 18
    num_attention_heads: int = 18
    intermediate_size: int = 4608
    hidden_act: str = "relu"
    max_position_embeddings: int = 4096
    has_special_tokens: bool | None = None
    pooling: Literal["cls", "mean"] | None = None
    cell_embedding_layer: int = -2
    cell_embedding_size: int | None = None
    normalize_cell_embedding: bool = False
    task_names: list[str] | None = None
    num_labels_per_task: list[int] | None = None
    label_names_per_task: list[list[str]] | None = None
    task_weights: list[float | int] | None = None
    multitask_pooling: Literal["cls", "attention"] = "cls"
    attention_pooling_includes_padding: bool = True

    def __post_init__(self, **kwargs):
        if self.has_special_tokens is None:
            self.has_special_tokens = self.vocab_size != V1_VOCAB_SIZE
        if self.pooling is None:
            self.pooling = "cls" if self.has_special_tokens else "mean"
        if self.cell_embedding_size is None:
            self.cell_embedding_size = self.hidden_size
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(cls, *args, **kwargs):
        """As transformers', and the folders of the authors, which call themselves `bert`, are ours as well.

        What other settings derive from is taken before they do.
        """
        settings, kwargs = super().get_config_dict(*args, **kwargs)
        if settings.get("model_type") == "bert":
            settings["model_type"] = cls.model_type
        given = {name: kwargs.pop(name) for name in ("has_special_tokens", "pooling") if name in kwargs}
        return settings | given, kwargs

    def validate_architecture(self):
        """Refuse sizes and options that contradict one another."""
        if self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"`hidden_size` must be a multiple of `num_attention_heads`, got {self.hidden_size} and "
                f"{self.num_attention_heads}."
            )
        if not -self.num_hidden_layers - 1 <= self.cell_embedding_layer <= self.num_hidden_layers:
            raise ValueError(
                f"`cell_embedding_layer` must name one of {self.num_hidden_layers + 1} hidden states, got "
                f"{self.cell_embedding_layer}."
            )
        if self.cell_embedding_size != self.hidden_size:
            raise ValueError(
                f"`cell_embedding_size` must equal `hidden_size` ({self.hidden_size}), got {self.cell_embedding_size}."
            )
        if self.is_decoder or self.add_cross_attention:
            raise ValueError("Geneformer is an encoder: `is_decoder` and `add_cross_attention` must be False.")
        tasks = self.num_labels_per_task or []
        for name in ("task_names", "label_names_per_task", "task_weights"):
            given = getattr(self, name)
            if given is not None and len(given) != len(tasks):
                raise ValueError(
                    f"`{name}` must have one entry for each of the {len(tasks)} tasks of `num_labels_per_task`, got "
                    f"{len(given)}."
                )
        if self.label_names_per_task and [len(names) for names in self.label_names_per_task] != tasks:
            raise ValueError(
                f"`label_names_per_task` must name as many classes as `num_labels_per_task` says, {tasks}."
            )


__all__ = ["GeneformerConfig"]
