"""scFoundation (Hao et al., Nature Methods 2024, doi:10.1038/s41592-024-02305-7).

An asymmetric masked auto-encoder. A transformer encoder reads only the expressed genes of a cell, with the total count
that was measured (`<S>`) and the one that is asked for (`<T>`); a Performer decoder reads the whole panel of genes and
predicts their log-normalised expression. Values are spread over soft bins instead of being cut into hard ones.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, auto_docstring, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.attention import (
    PerformerFeatures,
    PerformerRedraw,
    eager_attention_forward,
    orthogonal_random_features,
)
from sclm_hf.modeling.common.base import SclmPreTrainedModel
from sclm_hf.modeling.common.initialization import attention_projection, draw_linear
from sclm_hf.modeling.common.inputs import check_cells, refuse_keywords
from sclm_hf.modeling.common.losses import classification_loss, masked_mse
from sclm_hf.modeling.common.outputs import CellClassifierOutput, CellModelOutput
from sclm_hf.modeling.common.performer import PerformerLayer
from sclm_hf.modeling.common.probe import head_size, probe_leaves, with_common_heads

from .configuration_scfoundation import ScFoundationConfig

VALUE_SLOPE = 0.1
CLASSIFIER_NORM_EPS = 1e-6
PUBLISHED_TRAINED_LAYER = -2


class ScFoundationValueEmbedding(nn.Module):
    """Spreads a number over soft bins and mixes their embeddings; zero is a number like any other."""

    def __init__(self, config: ScFoundationConfig):
        super().__init__()
        self.config = config
        self.linear1 = nn.Linear(1, config.num_bins)
        self.linear2 = nn.Linear(config.num_bins, config.num_bins)
        self.bins = nn.Embedding(config.num_bins, config.hidden_size)
        self.mask = nn.Embedding(1, config.hidden_size)
        self.pad = nn.Embedding(1, config.hidden_size)

    def bin_weights(self, values: Tensor) -> Tensor:
        """The share `(…, bins)` of each soft bin in `(…)` values."""
        # quantised weights have a type that nothing is computed in
        numbers = values.unsqueeze(-1).to(self.bins.weight.dtype)
        spread = F.leaky_relu(self.linear1(numbers), VALUE_SLOPE)
        return torch.softmax(self.config.bin_alpha * spread + self.linear2(spread), dim=-1)

    def forward(self, values: Tensor) -> Tensor:
        embedded = self.bin_weights(values) @ self.bins.weight
        embedded = torch.where((values == self.config.mask_value).unsqueeze(-1), self.mask.weight, embedded)
        return torch.where((values == self.config.pad_value).unsqueeze(-1), self.pad.weight, embedded)


class ScFoundationEmbeddings(nn.Module):
    """Embeddings of values and of genes; the latter take the place of positions."""

    def __init__(self, config: ScFoundationConfig):
        super().__init__()
        self.genes = nn.Embedding(config.vocab_size, config.hidden_size)
        self.values = ScFoundationValueEmbedding(config)


class ScFoundationAttention(nn.Module):
    """Multi-head self-attention of the encoder."""

    def __init__(self, config: ScFoundationConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = attention_projection(config.hidden_size, fused=True)
        self.k_proj = attention_projection(config.hidden_size, fused=True)
        self.v_proj = attention_projection(config.hidden_size, fused=True)
        self.o_proj = attention_projection(config.hidden_size, fused=False)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[Tensor, Tensor | None]:
        shape = hidden_states.shape[:-1]
        per_head = (*shape, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(per_head).transpose(1, 2)
        key = self.k_proj(hidden_states).view(per_head).transpose(1, 2)
        value = self.v_proj(hidden_states).view(per_head).transpose(1, 2)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.hidden_dropout_prob if self.training else 0.0
        context, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(context.reshape(*shape, -1).contiguous()), weights


class ScFoundationLayer(GradientCheckpointingLayer):
    """One encoder layer: attention and a ReLU feed-forward part, each normalised after it is added to its input."""

    def __init__(self, config: ScFoundationConfig, layer_idx: int):
        super().__init__()
        self.self_attn = ScFoundationAttention(config, layer_idx)
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> Tensor:
        attended, _ = self.self_attn(hidden_states, attention_mask, **kwargs)
        hidden_states = self.norm1(hidden_states + self.dropout(attended))
        inner = self.dropout(F.relu(self.linear1(hidden_states)))
        return self.norm2(hidden_states + self.dropout(self.linear2(inner)))


class ScFoundationDecoder(nn.Module):
    """A Performer over all positions: the panel of genes, `<T>` and `<S>`. It ends with two LayerNorms in a row."""

    def __init__(self, config: ScFoundationConfig):
        super().__init__()
        self.config = config
        width = config.decoder_hidden_size
        self.projection = nn.Linear(config.hidden_size, width)
        self.layers = nn.ModuleList(
            PerformerLayer(
                width,
                config.num_decoder_attention_heads,
                config.decoder_head_dim,
                config.num_random_features,
                config.decoder_intermediate_size,
                bias=True,
                dropout=config.decoder_dropout_prob,
                norm_eps=config.layer_norm_eps,
            )
            for _ in range(config.num_decoder_layers)
        )
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.final_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.redraw = PerformerRedraw(config.redraw_interval)

    def forward(self, hidden_states: Tensor) -> Tensor:
        self.redraw(self)
        hidden_states = self.projection(hidden_states)
        for layer in self.layers:
            hidden_states = layer(hidden_states, None, self.config.key_maximum)
        return self.final_norm(self.norm(hidden_states))


class ScFoundationClassifier(nn.Module):
    """Batch normalisation without affine part, and two linear layers."""

    def __init__(self, config: ScFoundationConfig):
        super().__init__()
        self.norm = nn.BatchNorm1d(config.hidden_size, affine=False, eps=CLASSIFIER_NORM_EPS)
        self.linear1 = nn.Linear(config.hidden_size, config.classifier_hidden_size)
        self.linear2 = nn.Linear(config.classifier_hidden_size, head_size(config))

    def forward(self, cell_embedding: Tensor) -> Tensor:
        return self.linear2(F.relu(self.linear1(self.norm(cell_embedding))))


@dataclass
class ScFoundationExpressionOutput(ModelOutput):
    """What the auto-encoder returns.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Scalar, when labels were given.
        expression_prediction (`torch.FloatTensor`, *optional*):
            `(batch, num_genes)` predicted log-normalised expression of every gene of the panel.
        gene_hidden_state (`torch.FloatTensor`, *optional*):
            `(batch, num_genes, decoder_hidden_size)` one vector per gene of the panel: the published gene embedding.
        cell_embedding (`torch.FloatTensor`, *optional*):
            `(batch, cell_embedding_size)`.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, genes, hidden)` per layer of the encoder, when asked for.
        attentions (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, heads, genes, genes)` per layer of the encoder, when asked for.
    """

    loss: torch.FloatTensor | None = None
    expression_prediction: torch.FloatTensor | None = None
    gene_hidden_state: torch.FloatTensor | None = None
    cell_embedding: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class ScFoundationPreTrainedModel(SclmPreTrainedModel):
    """Weights as torch draws them; random features are buffers that are saved."""

    config: ScFoundationConfig
    _no_split_modules = ["ScFoundationLayer", "PerformerLayer"]
    _can_record_outputs = {"hidden_states": ScFoundationLayer, "attentions": ScFoundationAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PerformerFeatures):
            init.copy_(module.projection, orthogonal_random_features(*module.projection.shape))
        elif isinstance(module, PerformerRedraw):
            init.zeros_(module.calls)
        elif isinstance(module, nn.BatchNorm1d):
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, nn.Linear):
            draw_linear(module)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        else:
            super()._init_weights(module)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the gene table, of which the panel and the tokens behind it stay.

        Raises:
            ConfigurationError: they would not.
        """
        fewest = max(self.config.num_positions, self.config.pad_token_id + 1)
        if new_num_tokens is not None and new_num_tokens < fewest:
            raise ConfigurationError(
                f"scFoundation's gene table holds its panel of {self.config.num_genes} genes, `<T>`, `<S>` and "
                f"`<pad>`: it can have {fewest} rows or more, not {new_num_tokens}."
            )
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)


@auto_docstring(
    custom_intro="The bare scFoundation encoder: expressed genes of cells in, one vector per gene and per cell out."
)
class ScFoundationModel(ScFoundationPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^expression_head\.", r"^classifier\."]

    def __init__(self, config: ScFoundationConfig):
        super().__init__(config)
        self.embeddings = ScFoundationEmbeddings(config)
        self.layers = nn.ModuleList(ScFoundationLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        expression_values: torch.FloatTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellModelOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`):
            Ids of the expressed genes, then `<T>` and `<S>`; the order does not matter.
        expression_values (`torch.FloatTensor` of shape `(batch, genes)`):
            Log-normalised expression, and the log10 of the total counts that are asked for and were measured.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions.
        inputs_embeds (`torch.FloatTensor` of shape `(batch, genes, hidden)`, *optional*):
            In the place of the rows of the gene table that `input_ids` say; these still say which genes they are.
        """
        refuse_keywords(self, kwargs)
        self.check_batch(input_ids, expression_values, attention_mask, inputs_embeds)
        gene_embeddings = self.embeddings.genes(input_ids) if inputs_embeds is None else inputs_embeds
        hidden_states = self.embeddings.values(expression_values).to(gene_embeddings.dtype) + gene_embeddings
        mask = create_bidirectional_mask(self.config, hidden_states, attention_mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, **kwargs)
        hidden_states = self.norm(hidden_states)
        return CellModelOutput(
            last_hidden_state=hidden_states,
            cell_embedding=self.pool(hidden_states, input_ids, attention_mask),
            gene_embeddings=gene_embeddings,
        )

    def check_batch(
        self,
        input_ids: Tensor | None,
        expression_values: Tensor | None,
        attention_mask: Tensor | None,
        inputs_embeds: Tensor | None = None,
    ) -> None:
        """Refuse a batch that is none.

        Raises:
            ConfigurationError: something is missing, or they are not of one another.
        """
        if input_ids is None or expression_values is None:
            raise ConfigurationError(
                "scFoundation's tokens are genes and their values: pass `input_ids` and `expression_values`, both "
                "(batch, genes), as its processor makes them."
            )
        tensors = {"expression_values": expression_values, "attention_mask": attention_mask}
        check_cells(self, input_ids=input_ids, inputs_embeds=inputs_embeds, **tensors)

    def pool(self, hidden_states: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The cell embedding `(batch, cell_embedding_size)`, as `config.pooling` says.

        The parts of `<T>` and `<S>` are zero where a cell comes without them, which no cell of the processor does.
        """
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        if self.config.pooling == "max":
            return _maximum(hidden_states, real)
        target, source = (input_ids == self.config.target_token_id), (input_ids == self.config.source_token_id)
        genes = real & ~target & ~source
        parts = [
            _sum(hidden_states, source),
            _sum(hidden_states, target),
            _maximum(hidden_states, genes),
            _sum(hidden_states, genes) / genes.sum(dim=1, keepdim=True),
        ]
        return torch.cat([part.to(hidden_states.dtype) for part in parts], dim=-1)


def _maximum(hidden_states: Tensor, chosen: Tensor) -> Tensor:
    """Element-wise maximum `(batch, hidden)` over the chosen positions."""
    return hidden_states.masked_fill(~chosen.unsqueeze(-1), -torch.inf).amax(dim=1)


def _sum(hidden_states: Tensor, chosen: Tensor) -> Tensor:
    """Sum `(batch, hidden)` over the chosen positions, in single precision at least."""
    return hidden_states.masked_fill(~chosen.unsqueeze(-1), 0.0).sum(
        dim=1, dtype=torch.promote_types(hidden_states.dtype, torch.float32)
    )


@auto_docstring(
    custom_intro="""
    The whole scFoundation: from the expressed genes of a cell to the expression, and one vector, of every gene of the
    panel. It is pre-trained to restore masked values and, of cells sampled at a lower depth than `<T>` asks for, those
    of the deeper cell (read-depth enhancement).
    """
)
class ScFoundationForMaskedExpression(ScFoundationPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]
    # the decoder counts training forwards, to draw its random features anew
    _can_compile_fullgraph = False
    predicted_expression = "log-normalised"

    def __init__(self, config: ScFoundationConfig):
        super().__init__(config)
        self.model = ScFoundationModel(config)
        self.decoder = ScFoundationDecoder(config)
        self.expression_head = nn.Linear(config.decoder_hidden_size, 1)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        expression_values: torch.FloatTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        decoder_expression_values: torch.FloatTensor | None = None,
        labels: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ScFoundationExpressionOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`):
            Ids of the expressed genes that are not masked, then `<T>` and `<S>`.
        expression_values (`torch.FloatTensor` of shape `(batch, genes)`):
            Log-normalised expression, and the log10 of the total counts that are asked for and were measured.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions.
        decoder_expression_values (`torch.FloatTensor` of shape `(batch, num_genes + 2)`, *optional*):
            What the decoder reads where the encoder has no token: `config.mask_value` at masked genes, 0 at genes that
            are not expressed. Values of the encoder's own tokens are not looked at. Zeros by default.
        labels (`torch.FloatTensor` of shape `(batch, num_genes)`, *optional*):
            Log-normalised expression where it is to be predicted, -100 elsewhere.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(input_ids, expression_values, attention_mask, **kwargs)
        every_position = self.scatter(encoded.last_hidden_state, input_ids, attention_mask, decoder_expression_values)
        decoded = self.decoder(every_position)[:, : self.config.num_genes]
        prediction = self.expression_head(decoded).squeeze(-1)
        return ScFoundationExpressionOutput(
            loss=None if labels is None else masked_mse(prediction, labels, num_items),
            expression_prediction=prediction,
            gene_hidden_state=decoded,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def scatter(
        self, hidden_states: Tensor, input_ids: Tensor, attention_mask: Tensor | None, decoder_values: Tensor | None
    ) -> Tensor:
        """The decoder's input `(batch, num_genes + 2, hidden)`: the encoder's outputs among embedded values.

        Gene embeddings are added everywhere, so a second time to the encoder's outputs, as published.
        """
        count = self.config.num_positions
        if decoder_values is None:
            decoder_values = hidden_states.new_zeros(len(input_ids), 1, dtype=torch.float32)
        elif decoder_values.shape[1] != count:
            raise ConfigurationError(
                f"`decoder_expression_values` must be (batch, {count}), the genes of the panel, `<T>` and `<S>`; got "
                f"{tuple(decoder_values.shape)}."
            )
        embedded = self.model.embeddings.values(decoder_values).to(hidden_states.dtype)
        # padding and genes outside of the panel go to one position too many
        room = F.pad(embedded.expand(-1, count, -1), (0, 0, 0, 1))
        slots = input_ids.clamp(max=count)
        if attention_mask is not None:
            slots = slots.masked_fill(attention_mask == 0, count)
        filled = room.scatter(1, slots.unsqueeze(-1).expand_as(hidden_states), hidden_states)[:, :count]
        return filled + self.model.embeddings.genes(torch.arange(count, device=filled.device))


@auto_docstring(
    custom_intro="scFoundation with a classifier of cells on the maximum over the encoder's outputs, as published."
)
class ScFoundationForSequenceClassification(ScFoundationPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^expression_head\."]

    def __init__(self, config: ScFoundationConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = ScFoundationModel(config)
        self.classifier = ScFoundationClassifier(config)
        self.post_init()

    @property
    def classified_size(self) -> int:
        """Size of the pooled genes that the classifier reads; a probe alone reads the whole embedding."""
        return self.config.hidden_size if probe_leaves(self.config) else self.config.cell_embedding_size

    @property
    def returned_size(self) -> int:
        """Size of the pooled genes, whatever the pooling of `embed`."""
        return self.config.hidden_size

    def freeze_as_published(self) -> None:
        """Leave only the classifier and the last layer but one of the encoder to train.

        Raises:
            ConfigurationError: there is only one layer.
        """
        if len(self.model.layers) < 2:
            raise ConfigurationError("The published fine-tuning trains the last layer but one, and there is only one.")
        self.model.requires_grad_(False)
        self.model.layers[PUBLISHED_TRAINED_LAYER].requires_grad_(True)

    @can_return_tuple
    @with_common_heads
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        expression_values: torch.FloatTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellClassifierOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`):
            Ids of the expressed genes; `<T>` and `<S>` may be there and are read with `config.classifier_reads_depth`.
        expression_values (`torch.FloatTensor` of shape `(batch, genes)`):
            Log-normalised expression.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions.
        labels (`torch.LongTensor` of shape `(batch,)`, *optional*):
            Cell types, or what `config.problem_type` asks for; -100 is ignored.
        """
        self.model.check_batch(input_ids, expression_values, attention_mask)
        num_items = kwargs.pop("num_items_in_batch", None)
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        pooled = torch.ones_like(real) if self.config.pooling_includes_padding else real
        if not self.config.classifier_reads_depth:
            depth = (input_ids == self.config.target_token_id) | (input_ids == self.config.source_token_id)
            real, pooled = real & ~depth, pooled & ~depth
        if self.config.classifier_pad_position_id is not None:
            input_ids = input_ids.masked_fill(~real, self.config.classifier_pad_position_id)
        encoded = self.model(input_ids, expression_values, real.long(), **kwargs)
        cell_embedding = _maximum(encoded.last_hidden_state, pooled)
        logits = self.classifier(cell_embedding)
        return CellClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config, num_items),
            logits=logits,
            cell_embedding=cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


__all__ = [
    "ScFoundationForMaskedExpression",
    "ScFoundationForSequenceClassification",
    "ScFoundationModel",
    "ScFoundationPreTrainedModel",
]
