"""Configuration of the set model."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import auto_docstring


@auto_docstring(custom_intro="Configuration of a transformer over sets of control cells.")
@strict
class CellSetConfig(PreTrainedConfig):
    r"""
    genes (`list[str]`, *optional*):
        Names of the genes that are read and predicted, in order.
    perturbed_genes (`list[str]`, *optional*):
        Names of the genes whose perturbation can be predicted: the rows of the table of features.
    feature_size (`int`, *optional*, defaults to 10):
        Size of the features of a perturbed gene.
    cells_per_set (`int`, *optional*, defaults to 64):
        Cells that attend to one another.
    mean_weight (`float`, *optional*, defaults to 1.0):
        Weight of the squared distance between the means of a predicted and a real set, beside their energy distance.
    """

    model_type = "cell_set"

    genes: list[str] | None = None
    perturbed_genes: list[str] | None = None
    feature_size: int = 10
    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    intermediate_size: int = 256
    hidden_dropout_prob: float | int = 0.1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    cells_per_set: int = 64
    mean_weight: float | int = 1.0

    def validate_architecture(self):
        """Refuse sizes that contradict one another."""
        if self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"`hidden_size` must be a multiple of `num_attention_heads`, got {self.hidden_size} and "
                f"{self.num_attention_heads}."
            )
        if self.cells_per_set < 2:
            raise ValueError(f"`cells_per_set` must be at least 2, got {self.cells_per_set}.")


__all__ = ["CellSetConfig"]
