"""Configuration of linear models."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import auto_docstring


@auto_docstring(
    custom_intro="""
    Configuration of a Linear model: one weighted sum over the genes of a cell for each number of its embedding.
    """
)
@strict
class LinearConfig(PreTrainedConfig):
    r"""
    vocab_size (`int`, *optional*, defaults to 20001):
        Rows of the gene table.
    hidden_size (`int`, *optional*, defaults to 50):
        Numbers per gene, and per cell: the principal components, or one score for each label.
    num_hidden_layers (`int`, *optional*, defaults to 0):
        Always 0: there are no layers.
    cell_embedding_size (`int`, *optional*):
        Width of the cell embedding: always `hidden_size`.
    normalize_cell_embedding (`bool`, *optional*, defaults to `False`):
        Whether `embed` divides cell embeddings by their L2 norm.
    initializer_range (`float`, *optional*, defaults to 0.02):
        Standard deviation of a new gene table.
    pad_value (`float`, *optional*, defaults to 0.0):
        The value that goes with `<pad>`.
    """

    model_type = "linear"
    keys_to_ignore_at_inference = ["cell_embedding"]

    vocab_size: int = 20001
    hidden_size: int = 50
    num_hidden_layers: int = 0
    cell_embedding_size: int | None = None
    normalize_cell_embedding: bool = False
    initializer_range: float | int = 0.02
    pad_token_id: int | None = 0
    pad_value: float | int = 0.0

    def __post_init__(self, **kwargs):
        if self.cell_embedding_size is None:
            self.cell_embedding_size = self.hidden_size
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Refuse sizes that contradict one another."""
        if self.num_hidden_layers != 0:
            raise ValueError(f"A linear model has no layers: `num_hidden_layers` is 0, got {self.num_hidden_layers}.")
        if self.cell_embedding_size != self.hidden_size:
            raise ValueError(
                f"`cell_embedding_size` must equal `hidden_size` ({self.hidden_size}), got {self.cell_embedding_size}."
            )


__all__ = ["LinearConfig"]
