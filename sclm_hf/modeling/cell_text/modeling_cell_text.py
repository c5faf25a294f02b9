"""A language model that reads cells: soft tokens of each cell stand among the tokens of a prompt.

Sources: Liu et al., "Visual instruction tuning", NeurIPS 2023, for the projector and its two stages of training;
Schaefer et al., "Multimodal learning enables chat-based exploration of single-cell data", Nature Biotechnology 2025
(CellWhisperer), for several tokens made of one cell embedding; Li et al., "BLIP-2", ICML 2023, and Fang et al.,
"InstructCell", 2025, for learnt queries that attend to what the encoder gives.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, auto_docstring, can_return_tuple

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.base import SclmModelMixin

from .configuration_cell_text import CellTextConfig

CELL = "cell_"
"""What the names of the inputs of cells begin with; the rest is what the cell encoder calls them."""


@dataclass
class CellTextOutput(ModelOutput):
    """What a language model that reads cells returns.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Scalar, when labels were given.
        logits (`torch.FloatTensor`, *optional*):
            `(batch, tokens, vocab_size)`; not of the bare model.
        last_hidden_state (`torch.FloatTensor`, *optional*):
            `(batch, tokens, hidden)` of the language model; of the bare model alone.
        past_key_values (`Cache`, *optional*):
            Keys and values, to go on with further tokens.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, tokens, hidden)` per layer of the language model, when asked for.
        attentions (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, heads, tokens, tokens)` per layer of the language model, when asked for.
        cell_hidden_states (`torch.FloatTensor`, *optional*):
            `(cells, num_cell_tokens, hidden)` soft tokens of the cells of all prompts, one after the other.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cell_hidden_states: torch.FloatTensor | None = None


class MLPProjector(nn.Module):
    """Soft tokens from the embedding of a cell: normalised, then through two layers."""

    def __init__(self, config: CellTextConfig):
        super().__init__()
        size, width = config.cell_config.cell_embedding_size, config.projector_hidden_size
        self.n_tokens = config.num_cell_tokens
        self.norm = nn.LayerNorm(size)
        self.linear1 = nn.Linear(size, width)
        self.out = nn.Linear(width, self.n_tokens * config.text_config.hidden_size)

    def forward(self, cell_embedding: Tensor, states: Tensor | None, mask: Tensor | None) -> Tensor:
        """(cells, num_cell_tokens, hidden) from (cells, cell_embedding_size); the rest is for resamplers."""
        return self.out(F.gelu(self.linear1(self.norm(cell_embedding)))).unflatten(-1, (self.n_tokens, -1))


class ResamplerLayer(nn.Module):
    """Queries look at the genes of a cell, then go through a feed-forward block."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))
        self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, queries: Tensor, genes: Tensor, mask: Tensor) -> Tensor:
        """(cells, queries, width) from the same, (cells, genes, width) and (cells, genes) bool."""
        asked, keys, values = (
            layer(tokens).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for layer, tokens in ((self.q_proj, self.norm1(queries)), (self.k_proj, genes), (self.v_proj, genes))
        )
        seen = F.scaled_dot_product_attention(asked, keys, values, attn_mask=mask[:, None, None])
        queries = queries + self.o_proj(seen.transpose(1, 2).flatten(2))
        return queries + self.linear2(F.gelu(self.linear1(self.norm2(queries))))


class Resampler(nn.Module):
    """Soft tokens from the genes of a cell: learnt queries, one for each, attend to the states of the encoder."""

    def __init__(self, config: CellTextConfig):
        super().__init__()
        width = config.projector_hidden_size
        self.queries = nn.Parameter(torch.empty(config.num_cell_tokens, width))
        self.norm = nn.LayerNorm(config.cell_config.hidden_size)
        self.genes = nn.Linear(config.cell_config.hidden_size, width)
        self.layers = nn.ModuleList(
            ResamplerLayer(width, config.resampler_heads) for _ in range(config.resampler_layers)
        )
        self.last_norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, config.text_config.hidden_size)

    def forward(self, cell_embedding: Tensor, states: Tensor | None, mask: Tensor | None) -> Tensor:
        """(cells, num_cell_tokens, hidden) from (cells, genes, hidden of the encoder) and (cells, genes) bool.

        Raises:
            ConfigurationError: the encoder gives no states of genes.
        """
        if states is None or states.ndim != 3:
            raise ConfigurationError(
                "A resampler attends to the genes of a cell, and this cell encoder gives no state for each: set "
                "`projector` to 'mlp', or choose another encoder."
            )
        if mask is None or mask.shape != states.shape[:2]:
            mask = states.new_ones(states.shape[:2])
        queries, genes = self.queries.expand(len(states), -1, -1), self.genes(self.norm(states))
        for layer in self.layers:
            queries = layer(queries, genes, mask.bool())
        return self.out(self.last_norm(queries))


PROJECTORS = {"mlp": MLPProjector, "resampler": Resampler}


@auto_docstring
class CellTextPreTrainedModel(SclmModelMixin, PreTrainedModel):
    config: CellTextConfig
    base_model_prefix = "cell_text"
    main_input_name = "input_ids"
    input_modalities = ("cell", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["past_key_values"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Resampler):
            init.normal_(module.queries)
        elif isinstance(module, nn.Linear):
            # the last layer, whose numbers stand beside embeddings of words, is drawn as small as these
            small = module.out_features % self.config.text_config.hidden_size == 0
            init.normal_(module.weight, std=self.config.initializer_range if small else module.in_features**-0.5)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        loaded = super().from_pretrained(*args, **kwargs)
        # loading makes every parameter trainable
        for module in (loaded[0] if isinstance(loaded, tuple) else loaded).modules():
            if hasattr(module, "freeze_untrained"):
                module.freeze_untrained()
        return loaded

    def get_input_embeddings(self) -> nn.Module:
        return self.base_model.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.base_model.language_model.set_input_embeddings(value)

    def train_projector_only(self) -> None:
        """Freeze both models: the first stage of training, in which the projector learns to speak to them."""
        self.requires_grad_(False)
        self.base_model.projector.requires_grad_(True)

    def train(self, mode: bool = True) -> "CellTextPreTrainedModel":
        """As torch's; a frozen cell encoder stays in evaluation mode, without dropout."""
        super().train(mode)
        encoder = self.base_model.cell_model
        if not any(parameter.requires_grad for parameter in encoder.parameters()):
            encoder.eval()
        return self


@auto_docstring(
    custom_intro="""
    The bare cell-text model: tokens and cells in, the last hidden states of the language model out.
    """
)
class CellTextModel(CellTextPreTrainedModel):
    def __init__(self, config: CellTextConfig):
        super().__init__(config)
        self.cell_model = AutoModel.from_config(config.cell_config)
        self.projector = PROJECTORS[config.projector](config)
        # with its head, which may do more than multiply
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.takes_positions = "position_ids" in inspect.signature(self.language_model.forward).parameters
        self.post_init()

    def get_cell_features(
        self,
        cell_input_ids: Tensor | None = None,
        cell_expression_values: Tensor | None = None,
        cell_attention_mask: Tensor | None = None,
        cell_token_type_ids: Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """Soft tokens of cells.

        Args:
            cell_input_ids: (batch, cells, genes) gene ids.
            cell_expression_values: (batch, cells, genes), where the cell encoder reads values.
            cell_attention_mask: (batch, cells, genes), 1 at real positions, or (batch, cells), 1 = a real cell. Cells
                without any real position do not exist: prompts with fewer cells than others are padded with such.
            cell_token_type_ids: (batch, cells, genes), where the cell encoder reads them.

        Returns:
            `pooler_output` (cells, num_cell_tokens, hidden) of the cells of all prompts, one after the other, and
            `last_hidden_state` of the cell encoder.

        Raises:
            ConfigurationError: shapes differ, or there is no cell.
        """
        cells = {
            "input_ids": cell_input_ids,
            "expression_values": cell_expression_values,
            "attention_mask": cell_attention_mask,
            "token_type_ids": cell_token_type_ids,
        }
        cells = {name: tensor for name, tensor in cells.items() if tensor is not None}
        real = real_cells(cells)
        # nothing has to be kept for a backward pass that will not come
        learns = any(parameter.requires_grad for parameter in self.cell_model.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            embedding, states, mask = (self._samples if self.config.cell_context == "sample" else self._alone)(
                cells, real
            )
        dtype = self.projector.out.weight.dtype
        tokens = self.projector(embedding.to(dtype), None if states is None else states.to(dtype), mask)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=tokens)

    def _alone(self, cells: dict[str, Tensor], real: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Embeddings of cells that the encoder sees one by one, states of their genes, and which of these are real."""
        flat = {name: tensor[real] for name, tensor in cells.items()}
        output = self.cell_model(**flat)
        return output.cell_embedding, output.last_hidden_state, flat.get("attention_mask")

    def _samples(self, cells: dict[str, Tensor], real: Tensor) -> tuple[Tensor, Tensor, None]:
        """The same for an encoder that sees the cells of a prompt together; the states are those of cells."""
        outputs = [
            self.cell_model(
                input_ids=cells["input_ids"][row, 0], expression_values=cells["expression_values"][row, real[row]]
            )
            for row in real.any(dim=1).nonzero()[:, 0].tolist()
        ]
        states = torch.cat([output.last_hidden_state for output in outputs]).unsqueeze(1)
        return torch.cat([output.cell_embedding for output in outputs]), states, None

    def embed(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, **cells: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings of tokens (batch, tokens, hidden), in which soft tokens stand for `<cell>`; and these.

        Raises:
            ConfigurationError: the cells of a prompt are not as many as its placeholders ask for.
        """
        given = {name: tensor for name, tensor in cells.items() if tensor is not None}
        if (input_ids is None) == (inputs_embeds is None):
            raise ConfigurationError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        if input_ids is None:
            if given:
                raise ConfigurationError(
                    "Cells are put in the place of `<cell>` among `input_ids`, of which `inputs_embeds` tell nothing: "
                    "pass `input_ids`, or leave out the cells."
                )
            return inputs_embeds, None
        inputs_embeds = self.get_input_embeddings()(input_ids)
        places = input_ids == self.config.cell_token_id
        self._check_counts(places, given)
        if not given:
            return inputs_embeds, None
        tokens = self.get_cell_features(**given).pooler_output.to(inputs_embeds.dtype)
        return inputs_embeds.masked_scatter(places.unsqueeze(-1), tokens), tokens

    def _check_counts(self, places: Tensor, cells: dict[str, Tensor]) -> None:
        """Refuse prompts with other cells than they have placeholders for."""
        if torch.compiler.is_compiling():
            return
        n_places = places.sum(dim=1)
        n_cells = real_cells({name.removeprefix(CELL): one for name, one in cells.items()}).sum(dim=1) if cells else 0
        if cells and len(n_cells) != len(n_places):
            raise ConfigurationError(
                f"There are cells for {len(n_cells)} prompts and {len(n_places)} prompts: the inputs of cells are "
                "(batch, cells, genes), with the cells of each prompt in its row."
            )
        wrong = n_places != n_cells * self.config.num_cell_tokens
        if wrong.any():
            row, each = int(wrong.nonzero()[0, 0]), self.config.num_cell_tokens
            found = int(n_cells[row]) if cells else 0
            more = "placeholders than cells" if int(n_places[row]) > found * each else "cells than placeholders"
            raise ConfigurationError(
                f"Prompt {row} has more {more}: {int(n_places[row])} tokens `<cell>` and {found} cells, of "
                f"{each} soft tokens each. Let `CellTextProcessor` write the prompts."
            )

    def language_inputs(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        past_key_values: Cache | None,
        inputs_embeds: Tensor | None,
        **cells: Tensor | None,
    ) -> tuple[dict[str, Any], Tensor | None]:
        """What the language model is given, and the soft tokens.

        Raises:
            ConfigurationError: see [`embed`]; or the tokens are more than the language model reads.
        """
        inputs_embeds, tokens = self.embed(input_ids, inputs_embeds, **cells)
        length = inputs_embeds.shape[1]
        longest = getattr(self.config.text_config, "max_position_embeddings", None)
        if longest is not None and length > longest:
            raise ConfigurationError(
                f"A prompt of {length:,} tokens, the {self.config.num_cell_tokens} of each cell included, does not "
                f"fit the language model, which reads {longest:,}: give fewer cells or words."
            )
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            # padding on the left would move the positions of models that have a table of them
            position_ids = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -length:]
        inputs = {
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
        }
        return inputs | ({"position_ids": position_ids} if self.takes_positions else {}), tokens

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        cell_input_ids: torch.LongTensor | None = None,
        cell_expression_values: torch.Tensor | None = None,
        cell_attention_mask: torch.LongTensor | None = None,
        cell_token_type_ids: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> CellTextOutput:
        r"""
        cell_input_ids (`torch.LongTensor` of shape `(batch, cells, genes)`, *optional*):
            Gene ids of the cells of each prompt.
        cell_expression_values (`torch.Tensor` of shape `(batch, cells, genes)`, *optional*):
            The value of each gene, where the cell encoder reads any.
        cell_attention_mask (`torch.LongTensor` of shape `(batch, cells, genes)`, *optional*):
            1 at real positions; cells without any are padding. Or of shape `(batch, cells)`, 1 = a real cell.
        cell_token_type_ids (`torch.LongTensor` of shape `(batch, cells, genes)`, *optional*):
            Where the cell encoder reads them.
        """
        inputs, tokens = self.language_inputs(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            cell_input_ids=cell_input_ids,
            cell_expression_values=cell_expression_values,
            cell_attention_mask=cell_attention_mask,
            cell_token_type_ids=cell_token_type_ids,
        )
        output = self.language_model.base_model(**inputs, **kwargs)
        return CellTextOutput(
            last_hidden_state=output.last_hidden_state,
            past_key_values=output.get("past_key_values"),
            hidden_states=output.get("hidden_states"),
            attentions=output.get("attentions"),
            cell_hidden_states=tokens,
        )


@auto_docstring(
    custom_intro="""
    A causal language model that reads cells and answers in text.
    """
)
class CellTextForConditionalGeneration(CellTextPreTrainedModel, GenerationMixin):
    def __init__(self, config: CellTextConfig):
        super().__init__(config)
        self.cell_text = CellTextModel(config)
        # a placeholder is nothing that can be said
        self.generation_config.suppress_tokens = [config.cell_token_id]
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.cell_text.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.cell_text.language_model.set_output_embeddings(value)

    def get_cell_features(self, *args: Tensor, **cells: Tensor) -> BaseModelOutputWithPooling:
        """See [`CellTextModel.get_cell_features`]."""
        return self.cell_text.get_cell_features(*args, **cells)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        cell_input_ids: torch.LongTensor | None = None,
        cell_expression_values: torch.Tensor | None = None,
        cell_attention_mask: torch.LongTensor | None = None,
        cell_token_type_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> CellTextOutput:
        r"""
        cell_input_ids (`torch.LongTensor` of shape `(batch, cells, genes)`, *optional*):
            Gene ids of the cells of each prompt.
        cell_expression_values (`torch.Tensor` of shape `(batch, cells, genes)`, *optional*):
            The value of each gene, where the cell encoder reads any.
        cell_attention_mask (`torch.LongTensor` of shape `(batch, cells, genes)`, *optional*):
            1 at real positions; cells without any are padding. Or of shape `(batch, cells)`, 1 = a real cell.
        cell_token_type_ids (`torch.LongTensor` of shape `(batch, cells, genes)`, *optional*):
            Where the cell encoder reads them.
        labels (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
            The tokens to be predicted, -100 where the loss does not look: at prompts, and at every `<cell>`.
        """
        if labels is not None and not torch.compiler.is_compiling() and (labels == self.config.cell_token_id).any():
            raise ConfigurationError(
                "`labels` hold `<cell>`, which the model would learn to say: set them to -100 wherever `input_ids` "
                "hold a placeholder."
            )
        inputs, tokens = self.cell_text.language_inputs(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            cell_input_ids=cell_input_ids,
            cell_expression_values=cell_expression_values,
            cell_attention_mask=cell_attention_mask,
            cell_token_type_ids=cell_token_type_ids,
        )
        output = self.cell_text.language_model(**inputs, labels=labels, **kwargs)
        return CellTextOutput(
            loss=output.get("loss"),
            logits=output.logits,
            past_key_values=output.get("past_key_values"),
            hidden_states=output.get("hidden_states"),
            attentions=output.get("attentions"),
            cell_hidden_states=tokens,
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As transformers'; cells are read with the prompt, and not again for each token."""
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        if not is_first_iteration and kwargs.get("use_cache", True):
            inputs = {name: value for name, value in inputs.items() if not name.startswith(CELL)}
        return inputs


def real_cells(cells: dict[str, Tensor]) -> Tensor:
    """(batch, cells) bool: which cells are real, from their inputs by the names that the cell encoder has for them.

    Raises:
        ConfigurationError: the inputs are not (batch, cells, …), or shapes differ.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in cells.items()}
    if any(len(shape) != 3 and name != "attention_mask" for name, shape in shapes.items()):
        raise ConfigurationError(
            f"The inputs of cells are (batch, cells, genes), with the cells of each prompt in its row; got {shapes}."
        )
    if len({shape[:2] for shape in shapes.values()}) != 1:
        raise ConfigurationError(f"The inputs of cells are of different cells: {shapes}.")
    mask = cells.get("attention_mask")
    if mask is None:
        first = next(iter(cells.values()))
        return torch.ones(first.shape[:2], dtype=torch.bool, device=first.device)
    return mask.bool() if mask.ndim == 2 else mask.any(dim=-1)


__all__ = ["CellTextForConditionalGeneration", "CellTextModel", "CellTextPreTrainedModel"]
