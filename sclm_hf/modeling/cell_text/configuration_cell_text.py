"""Configuration of language models that read cells."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import auto_docstring


@auto_docstring(
    custom_intro="""
    Configuration of a cell-text model: an encoder of cells, a projector that turns each cell into soft tokens, and a
    causal language model that reads them among its words.
    """
)
@strict
class CellTextConfig(PreTrainedConfig):
    r"""
    cell_config (`dict` or `PreTrainedConfig`, *optional*):
        Configuration of the cell encoder, one of the families of this package; by default a new scGPT.
    text_config (`dict` or `PreTrainedConfig`, *optional*):
        Configuration of the language model, any causal one of transformers; by default a new Llama.
    cell_token_id (`int`, *optional*, defaults to 0):
        Id of `<cell>`, the token in whose place a soft token is put.
    num_cell_tokens (`int`, *optional*, defaults to 8):
        Soft tokens of a cell.
    projector (`str`, *optional*, defaults to `"mlp"`):
        What makes them: `"mlp"`, a two-layer network over the embedding of the cell; or `"resampler"`, learnt queries
        that attend to the genes of the cell.
    projector_hidden_size (`int`, *optional*):
        Width of the projector; that of the language model by default.
    resampler_layers (`int`, *optional*, defaults to 2):
        Layers of a resampler.
    resampler_heads (`int`, *optional*, defaults to 4):
        Attention heads of each of these layers.
    cell_context (`str`, *optional*, defaults to `"cell"`):
        What the cell encoder sees at a time: one `"cell"`, or the cells of a prompt as a
        `"sample"` (CellPLM).
    initializer_range (`float`, *optional*, defaults to 0.02):
        Standard deviation of the weights of a new projector's last layer.
    """

    model_type = "cell_text"
    sub_configs_defaults = {
        "cell_config": SubConfigSpec(config_class=AutoConfig, model_type="scgpt"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    cell_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    cell_token_id: int = 0
    num_cell_tokens: int = 8
    projector: Literal["mlp", "resampler"] = "mlp"
    projector_hidden_size: int | None = None
    resampler_layers: int = 2
    resampler_heads: int = 4
    cell_context: Literal["cell", "sample"] = "cell"
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.projector_hidden_size is None:
            self.projector_hidden_size = self.text_config.hidden_size

    def validate_architecture(self):
        """Refuse sizes that contradict one another."""
        if self.num_cell_tokens < 1:
            raise ValueError(f"`num_cell_tokens` must be at least 1, got {self.num_cell_tokens}.")
        if not 0 <= self.cell_token_id < self.text_config.vocab_size:
            raise ValueError(
                f"`cell_token_id` must be a token of the language model, 0 to {self.text_config.vocab_size - 1}; got "
                f"{self.cell_token_id}."
            )
        if self.projector == "resampler" and self.projector_hidden_size % self.resampler_heads:
            raise ValueError(
                f"`projector_hidden_size` ({self.projector_hidden_size}) must be a multiple of `resampler_heads` "
                f"({self.resampler_heads})."
            )
        if getattr(self.text_config, "is_encoder_decoder", False):
            raise ValueError(
                f"`text_config` must be that of a causal language model; a `{self.text_config.model_type}` reads with "
                "an encoder."
            )


__all__ = ["CellTextConfig"]
