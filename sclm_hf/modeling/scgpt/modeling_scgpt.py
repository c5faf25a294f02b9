"""scGPT (Cui et al., Nature Methods 2024, doi:10.1038/s41592-024-02201-0).

A transformer encoder over the genes of a cell: every token is the sum of a gene embedding and a value embedding, and
there are no positions. It is trained to predict masked values, or values of genes that are not shown at all.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, auto_docstring, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.attention.without_one import (
    WholeCells,
    attend_whole_cells,
    attend_without_one,
    slice_of_one,
)
from sclm_hf.modeling.common.base import SclmPreTrainedModel
from sclm_hf.modeling.common.initialization import draw_linear
from sclm_hf.modeling.common.inputs import check_cells, check_ids, exactly_one, refuse_keywords
from sclm_hf.modeling.common.losses import (
    classification_loss,
    contrastive_cell_embedding,
    elastic_cell_similarity,
    masked_mse,
    masked_nonzero_nll,
    reverse_gradient,
)
from sclm_hf.modeling.common.outputs import CellClassifierOutput, CellModelOutput, last_queries
from sclm_hf.modeling.common.probe import head_size, with_common_heads

from .configuration_scgpt import ScGPTConfig
from .modeling_scgpt_layers import (
    ScGPTAttention,
    ScGPTBatchNorm,
    ScGPTDomainNorm,
    ScGPTEmbeddings,
    ScGPTGeneEmbedding,
    ScGPTLayer,
    ScGPTNormedEmbedding,
)

QUERY_BOTTLENECK = 64
# one checkpoint may hold several of them; each class reads those it has
HEADS = (
    "context",
    "expression_decoder",
    "cell_expression_decoder",
    "batch_discriminator",
    "classifier",
    "perturbations",
    "coefficient_decoder",
    "bias_decoder",
)


class ScGPTMLP(nn.Module):
    """Linear, activation, LayerNorm, repeated, then a linear output: the classifier and the batch discriminator."""

    def __init__(self, config: ScGPTConfig, num_layers: int, num_outputs: int, activation: type[nn.Module]):
        super().__init__()
        width = config.hidden_size
        self.layers = nn.Sequential()
        for _ in range(num_layers - 1):
            self.layers.extend([nn.Linear(width, width), activation(), nn.LayerNorm(width, eps=config.layer_norm_eps)])
        self.output = nn.Linear(width, num_outputs)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.output(self.layers(hidden_states))


def classifier_head(config: ScGPTConfig) -> ScGPTMLP:
    return ScGPTMLP(config, config.classifier_num_layers, head_size(config), nn.ReLU)


class ScGPTExpressionDecoder(nn.Module):
    """Predicts a gene's value, and the logit of its being expressed, from its hidden state."""

    def __init__(self, config: ScGPTConfig, input_size: int):
        super().__init__()
        self.value = self._stack(input_size, config.hidden_size)
        self.nonzero = self._stack(input_size, config.hidden_size) if config.explicit_zero_prob else None

    @staticmethod
    def _stack(input_size: int, width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(input_size, width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, 1)
        )

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = None if self.nonzero is None else self.nonzero(hidden_states).squeeze(-1)
        return self.value(hidden_states).squeeze(-1), logits


class ScGPTCellExpressionDecoder(nn.Module):
    """Predicts values from the cell embedding and the gene embeddings alone (the paper's MVC or GEPC)."""

    def __init__(self, config: ScGPTConfig, cell_size: int, gene_size: int):
        super().__init__()
        self.style = config.mvc_style
        if self.style.startswith("inner product"):
            self.gene_query = nn.Linear(gene_size, gene_size)
            self.bilinear = nn.Linear(gene_size, cell_size, bias=False)
            self.nonzero_bilinear = nn.Linear(gene_size, cell_size) if config.explicit_zero_prob else None
            return
        query_size = QUERY_BOTTLENECK if self.style == "concat query" else gene_size
        self.gene_query = nn.Linear(gene_size, query_size)
        self.linear1 = nn.Linear(
            cell_size + query_size if self.style == "concat query" else cell_size, QUERY_BOTTLENECK
        )
        self.activation = nn.PReLU()
        self.linear2 = nn.Linear(QUERY_BOTTLENECK, 1)

    def forward(self, cell_embedding: Tensor, gene_embeddings: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.style == "inner product, detach":
            gene_embeddings = gene_embeddings.detach()
        query = torch.sigmoid(self.gene_query(gene_embeddings))
        cell = cell_embedding.unsqueeze(1)
        if self.style == "concat query":
            joined = torch.cat([cell.expand(-1, query.shape[1], -1), query], dim=-1)
            return self.linear2(self.activation(self.linear1(joined))).squeeze(-1), None
        if self.style == "sum query":
            return self.linear2(self.activation(self.linear1(cell + query))).squeeze(-1), None
        cell = cell_embedding.unsqueeze(-1)
        logits = None if self.nonzero_bilinear is None else (self.nonzero_bilinear(query) @ cell).squeeze(-1)
        return (self.bilinear(query) @ cell).squeeze(-1), logits


class ScGPTPreTrainedModel(SclmPreTrainedModel):
    """Weights as the original draws them: torch's linear layers, Xavier attention, uniform gene embeddings."""

    config: ScGPTConfig
    _no_split_modules = ["ScGPTLayer"]
    _can_record_outputs = {"hidden_states": ScGPTLayer, "attentions": ScGPTAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ScGPTGeneEmbedding):
            init.uniform_(module.weight, -self.config.initializer_range, self.config.initializer_range)
        elif isinstance(module, nn.Linear):
            draw_linear(module)
        elif isinstance(module, nn.PReLU):
            init.constant_(module.weight, 0.25)
        elif isinstance(module, ScGPTDomainNorm):
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])
        else:
            super()._init_weights(module)


class ScGPTSharedCells(NamedTuple):
    """What cells share with the same cells without one of their tokens.

    Attributes:
        hidden_states: `(cells, tokens, hidden)` what the first layer's attention reads.
        attention: that attention.
        expression_values, attention_mask: `(cells, tokens)` as the cells have them.
    """

    hidden_states: Tensor
    attention: WholeCells
    expression_values: Tensor | None
    attention_mask: Tensor


@auto_docstring(custom_intro="The bare scGPT encoder: genes and values in, one vector per gene and per cell out.")
class ScGPTModel(ScGPTPreTrainedModel):
    embeds_cells_alone = True
    _keys_to_ignore_on_load_unexpected = [rf"^{head}\." for head in HEADS]

    def __init__(self, config: ScGPTConfig):
        super().__init__(config)
        self.embeddings = ScGPTEmbeddings(config)
        self.domain_norm = None
        if config.domain_norm == "dsbn":
            self.domain_norm = ScGPTDomainNorm(config.num_batch_labels, config)
        elif config.domain_norm == "batchnorm":
            self.domain_norm = ScGPTBatchNorm(config)
        self.layers = nn.ModuleList(ScGPTLayer(config, index) for index in range(config.num_hidden_layers))
        self.gradient_checkpointing = False
        self.post_init()

    def embed_genes(self, input_ids: Tensor) -> Tensor:
        """The embeddings of genes after their LayerNorm, `(genes, hidden)`."""
        return self.embeddings.embed_genes(input_ids)

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        expression_values: torch.FloatTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        batch_labels: torch.LongTensor | None = None,
        generation_ids: torch.LongTensor | None = None,
        generation_attention_mask: torch.LongTensor | None = None,
        input_cell_embedding: torch.FloatTensor | None = None,
        extra_embeddings: torch.FloatTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        cell_embedding_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellModelOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids, `<cls>` first.
        expression_values (`torch.FloatTensor` of shape `(batch, genes)`, *optional*):
            The value of each gene (bins); without them tokens are gene embeddings only.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions.
        batch_labels (`torch.LongTensor` of shape `(batch,)`, *optional*):
            Batch of each cell; needed where `config.needs_batch_labels`, refused elsewhere.
        generation_ids (`torch.LongTensor` of shape `(batch, generated)`, *optional*):
            Genes whose values are to be generated. Each sees the known genes and itself; outputs are the known genes
            followed by these.
        generation_attention_mask (`torch.LongTensor` of shape `(batch, generated)`, *optional*):
            1 at real positions of `generation_ids`.
        input_cell_embedding (`torch.FloatTensor` of shape `(batch, hidden)`, *optional*):
            Replaces the first position of the encoder's input.
        extra_embeddings (`torch.FloatTensor` of shape `(batch, genes, hidden)`, *optional*):
            Added to the tokens before the encoder; perturbation flags come this way.
        inputs_embeds (`torch.FloatTensor` of shape `(batch, genes, hidden)`, *optional*):
            Rows of the gene table, in the place of `input_ids`.
        cell_embedding_only (`bool`, *optional*, defaults to `False`):
            Leave out of the last layer what the cell embedding does not need: where that is `<cls>`,
            `last_hidden_state` is `(batch, 1, hidden)`.
        """
        refuse_keywords(self, kwargs)
        exactly_one(input_ids=input_ids, inputs_embeds=inputs_embeds)
        tensors = {"input_ids": input_ids, "expression_values": expression_values, "attention_mask": attention_mask}
        check_cells(self, inputs_embeds=inputs_embeds, **tensors)
        self._check_batch_labels(batch_labels)
        gene_embeddings = self.embeddings.embed_genes(input_ids, inputs_embeds)
        hidden_states = self.embeddings.add_values(gene_embeddings, expression_values)
        if extra_embeddings is not None:
            hidden_states = hidden_states + extra_embeddings
        hidden_states = self._normalize_domain(hidden_states, batch_labels)
        if input_cell_embedding is not None:
            cell = input_cell_embedding.unsqueeze(1).to(hidden_states.dtype)
            hidden_states = torch.cat([cell, hidden_states[:, 1:]], dim=1)

        num_known = hidden_states.shape[1]
        num_generated = 0
        if generation_ids is None:
            hidden_states = self.embeddings.touch_flags(hidden_states)
        else:
            check_ids(self, generation_ids, "generation_ids")
            num_generated = generation_ids.shape[1]
            generated = self.embeddings.embed_genes(generation_ids)
            gene_embeddings = torch.cat([gene_embeddings, generated], dim=1)
            generated = self._normalize_domain(self.embeddings.add_generation_flag(generated), batch_labels)
            hidden_states = torch.cat([hidden_states, generated], dim=1)
            attention_mask = _join_masks(num_known, attention_mask, generation_ids, generation_attention_mask)

        mask = self._attention_mask(hidden_states, attention_mask, num_known, num_generated)
        for layer in self.layers[:-1]:
            hidden_states = layer(hidden_states, mask, num_generated, **kwargs)
        is_read = cell_embedding_only and self.config.pooling == "cls" and num_generated == 0
        num_queries = last_queries(self, kwargs) if is_read else None
        hidden_states = self.layers[-1](hidden_states, mask, num_generated, num_queries, **kwargs)
        known_mask = None if attention_mask is None else attention_mask[:, :num_known]
        return CellModelOutput(
            last_hidden_state=hidden_states,
            cell_embedding=self.pool(hidden_states[:, :num_known], expression_values, known_mask),
            gene_embeddings=gene_embeddings,
        )

    def share_first_layer(
        self,
        input_ids: Tensor,
        expression_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        batch_labels: Tensor | None = None,
    ) -> "ScGPTSharedCells":
        """What `embed_without_one` needs of cells whose tokens are left out one by one; arguments as for `forward`."""
        self._check_batch_labels(batch_labels)
        gene_embeddings = self.embeddings.embed_genes(input_ids)
        hidden_states = self.embeddings.add_values(gene_embeddings, expression_values)
        hidden_states = self._normalize_domain(hidden_states, batch_labels)
        hidden_states = self.layers[0].before_attention(hidden_states)
        attention = self.layers[0].self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        query, key, value = (attention.heads(projection(hidden_states)) for projection in projections)
        whole = attend_whole_cells(query, key, value, attention_mask, attention.scaling)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        return ScGPTSharedCells(hidden_states, whole, expression_values, attention_mask)

    def embed_without_one(self, shared: "ScGPTSharedCells", cells: Tensor, places: Tensor) -> Tensor:
        """The cell embeddings of cells that lack one token each, which share what the first layer makes of the cells.

        They are those of `forward` of these cells, but for rounding: scGPT has no positions, so that a token is the
        same whichever others are there.

        Args:
            shared: what `share_first_layer` made of whole cells.
            cells: `(n,)` number of the cell.
            places: `(n,)` position of the token that it lacks, not that of `<cls>`; -1 = none.

        Returns:
            `(n, hidden)`.

        Raises:
            ConfigurationError: padding counts in the mean over genes, as which the missing token would too.
        """
        if self.config.pooling != "cls" and self.config.pooling_includes_padding:
            raise ConfigurationError(
                "A token that is left out is masked, and this scGPT pools padding: set "
                "`model.config.pooling_includes_padding = False`."
            )
        tokens = torch.arange(shared.hidden_states.shape[1], device=places.device)
        mask = shared.attention_mask[cells] * (tokens != places[:, None])
        first = self.layers[0]
        context = attend_without_one(shared.attention, cells, places)
        attended = first.self_attn.o_proj(context.flatten(2))
        hidden_states = first.after_attention(shared.hidden_states[slice_of_one(cells)], attended)
        full_mask = self._attention_mask(hidden_states, mask, hidden_states.shape[1], 0)
        num_queries = last_queries(self, {})
        if num_queries is not None and full_mask is not None:
            # the same tokens are there for every query
            full_mask = full_mask[:, :, :1]
        for number, layer in enumerate(self.layers[1:], start=2):
            is_read = number == len(self.layers) and self.config.pooling == "cls"
            hidden_states = layer(hidden_states, full_mask, 0, num_queries if is_read else None)
        values = None if shared.expression_values is None else shared.expression_values[cells]
        return self.pool(hidden_states, values, mask)

    def pool(self, hidden_states: Tensor, expression_values: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """The cell embedding `(batch, hidden)` of `(batch, genes, hidden)` hidden states, as `config.pooling` says."""
        if self.config.pooling == "cls":
            return hidden_states[:, 0]
        pooled = torch.ones_like(hidden_states[..., :1])
        if attention_mask is not None and not self.config.pooling_includes_padding:
            pooled = attention_mask.unsqueeze(-1).to(hidden_states.dtype)
        if self.config.pooling == "avg-pool":
            return (hidden_states * pooled).sum(dim=1) / pooled.sum(dim=1)
        if expression_values is None:
            raise ConfigurationError("`pooling='w-pool'` weighs genes by `expression_values`: pass them.")
        weights = pooled * expression_values.unsqueeze(-1).to(hidden_states.dtype)
        return F.normalize((hidden_states * weights).sum(dim=1), dim=-1)

    def _normalize_domain(self, hidden_states: Tensor, batch_labels: Tensor | None) -> Tensor:
        return hidden_states if self.domain_norm is None else self.domain_norm(hidden_states, batch_labels)

    def _check_batch_labels(self, batch_labels: Tensor | None) -> None:
        if self.config.needs_batch_labels and batch_labels is None:
            raise ConfigurationError(
                "This scGPT normalises each batch by its own statistics (`domain_norm='dsbn'`): pass `batch_labels`, "
                "one integer per cell."
            )
        if batch_labels is not None and not self.config.accepts_batch_labels:
            raise ConfigurationError(
                "`batch_labels` were given to a scGPT that was not trained with them: leave them out."
            )

    def _attention_mask(
        self, hidden_states: Tensor, attention_mask: Tensor | None, num_known: int, num_generated: int
    ):
        if num_generated == 0:
            return create_bidirectional_mask(self.config, hidden_states, attention_mask)
        if "flash" in self.config._attn_implementation:
            raise ConfigurationError(
                "Flash attention has no mask for genes to generate: use `model.set_attn_implementation('sdpa')`."
            )

        def known_or_self(batch, head, query, key):
            return (key < num_known) | (query == key)

        return create_bidirectional_mask(self.config, hidden_states, attention_mask, and_mask_function=known_or_self)


def _expression_losses(
    predictions: dict[str, tuple[Tensor | None, Tensor | None]], labels: Tensor, num_items: Tensor | int | None
) -> dict[str, Tensor]:
    """Losses of predicted values, and of the logits of being expressed, that the model has."""
    terms = {}
    for prefix, (prediction, nonzero) in predictions.items():
        if prediction is not None:
            terms[f"{prefix}expression"] = masked_mse(prediction, labels, num_items)
        if nonzero is not None:
            terms[f"{prefix}nonzero"] = masked_nonzero_nll(nonzero, labels, num_items)
    return terms


def _join_masks(
    num_known: int, known_mask: Tensor | None, generated_ids: Tensor, generated_mask: Tensor | None
) -> Tensor | None:
    if known_mask is None and generated_mask is None:
        return None
    known_mask = generated_ids.new_ones(len(generated_ids), num_known) if known_mask is None else known_mask
    generated_mask = torch.ones_like(generated_ids) if generated_mask is None else generated_mask
    return torch.cat([known_mask, generated_mask.to(known_mask.dtype)], dim=1)


@dataclass
class ScGPTExpressionOutput(ModelOutput):
    """What the expression heads return; tensors over genes cover known genes, then genes to generate.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Sum of `loss_terms`, when labels were given.
        expression_prediction (`torch.FloatTensor`, *optional*):
            `(batch, genes)` predicted value of each gene, from its own hidden state.
        nonzero_probability (`torch.FloatTensor`, *optional*):
            `(batch, genes)` probability that the gene is expressed, with `explicit_zero_prob`.
        cell_expression_prediction (`torch.FloatTensor`, *optional*):
            `(batch, genes)` predicted value from the cell embedding (MVC).
        cell_nonzero_probability (`torch.FloatTensor`, *optional*):
            `(batch, genes)` likewise for the probability of being expressed.
        logits (`torch.FloatTensor`, *optional*):
            `(batch, num_labels)` of the cell classifier, with `use_classifier`.
        batch_logits (`torch.FloatTensor`, *optional*):
            `(batch, num_batch_labels)` of the batch discriminator.
        cell_embedding (`torch.FloatTensor`, *optional*):
            `(batch, hidden)`.
        loss_terms (`dict[str, torch.FloatTensor]`, *optional*):
            The weighted terms of `loss` by name, detached.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, genes, hidden)` per layer, when asked for.
        attentions (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, heads, genes, genes)` per layer, when asked for.
    """

    loss: torch.FloatTensor | None = None
    expression_prediction: torch.FloatTensor | None = None
    nonzero_probability: torch.FloatTensor | None = None
    cell_expression_prediction: torch.FloatTensor | None = None
    cell_nonzero_probability: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    batch_logits: torch.FloatTensor | None = None
    cell_embedding: torch.FloatTensor | None = None
    loss_terms: dict[str, torch.FloatTensor] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class ScGPTContext(nn.Module):
    """Embeddings of batch and modality that the decoders see beside the hidden states."""

    def __init__(self, config: ScGPTConfig):
        super().__init__()
        self.batches = ScGPTNormedEmbedding(config.num_batch_labels, config) if config.use_batch_labels else None
        self.modalities = None
        if config.num_modalities:
            self.modalities = ScGPTNormedEmbedding(config.num_modalities, config, config.modality_pad_token_id)

    def forward(self, batch_labels: Tensor | None, modality_ids: Tensor | None, num_genes: int) -> Tensor | None:
        """`(batch, genes, hidden)`, or None where the model has neither."""
        context = None
        if self.batches is not None:
            if batch_labels is None:
                raise ConfigurationError("This decoder sees batch labels: pass `batch_labels`, one integer per cell.")
            context = self.batches(batch_labels).unsqueeze(1).expand(-1, num_genes, -1)
        if self.modalities is not None:
            if modality_ids is None:
                raise ConfigurationError("This scGPT is multi-omic: pass `modality_ids`, one integer per gene.")
            modality = self.modalities(modality_ids)
            context = modality if context is None else context + modality
        return context


@auto_docstring(
    custom_intro="""
    scGPT with its expression decoders: the model of pre-training and of integration. It predicts masked values, or the
    values of `generation_ids`, and adds the auxiliary losses that its configuration asks for.
    """
)
class ScGPTForMaskedExpression(ScGPTPreTrainedModel):
    predicted_expression = "bins"

    def __init__(self, config: ScGPTConfig):
        super().__init__(config)
        self.model = ScGPTModel(config)
        has_context = config.use_batch_labels or config.num_modalities > 0
        joined_size = config.hidden_size * (2 if has_context else 1)
        self.context = ScGPTContext(config) if has_context else None
        self.expression_decoder = ScGPTExpressionDecoder(config, joined_size)
        self.cell_expression_decoder = None
        if config.mvc_style is not None:
            gene_size = joined_size if config.multiomic_decoder else config.hidden_size
            self.cell_expression_decoder = ScGPTCellExpressionDecoder(config, joined_size, gene_size)
        self.classifier = classifier_head(config) if config.use_classifier else None
        self.batch_discriminator = None
        if config.use_batch_discriminator:
            self.batch_discriminator = ScGPTMLP(config, 3, config.num_batch_labels, nn.LeakyReLU)
        self.post_init()

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether every term of the loss is element-wise, so that `num_items_in_batch` can normalise it."""
        config = self.config
        return not (config.use_ecs or config.use_cce or config.use_batch_discriminator or config.use_classifier)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        expression_values: torch.FloatTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        batch_labels: torch.LongTensor | None = None,
        generation_ids: torch.LongTensor | None = None,
        generation_attention_mask: torch.LongTensor | None = None,
        modality_ids: torch.LongTensor | None = None,
        labels: torch.FloatTensor | None = None,
        cell_type_labels: torch.LongTensor | None = None,
        generate_from_cell_embedding: bool = False,
        do_sample: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ScGPTExpressionOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids, `<cls>` first.
        expression_values (`torch.FloatTensor` of shape `(batch, genes)`, *optional*):
            The value of each gene (bins), `config.mask_value` where it is to be predicted.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions.
        batch_labels (`torch.LongTensor` of shape `(batch,)`, *optional*):
            Batch of each cell; also the target of the batch discriminator.
        generation_ids (`torch.LongTensor` of shape `(batch, generated)`, *optional*):
            Genes whose values are to be generated (the published pre-training).
        generation_attention_mask (`torch.LongTensor` of shape `(batch, generated)`, *optional*):
            1 at real positions of `generation_ids`.
        modality_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Modality of each gene token, for multi-omic models.
        labels (`torch.FloatTensor` of shape `(batch, genes)`, *optional*):
            True values where they are to be predicted, -100 elsewhere; over known genes followed by generated ones.
        cell_type_labels (`torch.LongTensor` of shape `(batch,)`, *optional*):
            Cell types, with `config.use_classifier`.
        generate_from_cell_embedding (`bool`, *optional*, defaults to `False`):
            Whether to add the second pass of the published pre-training, which sees the detached cell embedding.
        do_sample (`bool`, *optional*, defaults to `False`):
            Whether to draw which genes are zero from `nonzero_probability`.
        """
        encoder_inputs = {
            "attention_mask": attention_mask,
            "batch_labels": batch_labels,
            "generation_ids": generation_ids,
            "generation_attention_mask": generation_attention_mask,
        }
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(input_ids, expression_values, **encoder_inputs, **kwargs)
        prediction, nonzero = self._decode_genes(encoded.last_hidden_state, batch_labels, modality_ids)
        cell_prediction, cell_nonzero = self._decode_cell(encoded, batch_labels, modality_ids)
        cell_logits = None if self.classifier is None else self.classifier(encoded.cell_embedding)
        batch_logits = None
        if self.batch_discriminator is not None:
            batch_logits = self.batch_discriminator(reverse_gradient(encoded.cell_embedding))

        terms = {}
        if labels is not None:
            predictions = {"": (prediction, nonzero), "cell_": (cell_prediction, cell_nonzero)}
            terms |= _expression_losses(predictions, labels, num_items)
            if generate_from_cell_embedding:
                again = self.model(
                    input_ids,
                    expression_values,
                    **encoder_inputs,
                    input_cell_embedding=encoded.cell_embedding.detach(),
                )
                generated, _ = self._decode_genes(again.last_hidden_state, batch_labels, modality_ids)
                terms["generation_from_cell"] = masked_mse(generated, labels, num_items)
        if labels is not None or cell_type_labels is not None:
            terms |= self._cell_losses(
                encoded.cell_embedding, cell_logits, cell_type_labels, batch_logits, batch_labels
            )
            if self.config.use_cce:
                second_view = self.model(input_ids, expression_values, **encoder_inputs).cell_embedding
                terms["contrastive"] = contrastive_cell_embedding(encoded.cell_embedding, second_view)
        return ScGPTExpressionOutput(
            loss=sum(terms.values()) if terms else None,
            expression_prediction=_sample_zeros(prediction, nonzero) if do_sample else prediction,
            nonzero_probability=None if nonzero is None else nonzero.sigmoid(),
            cell_expression_prediction=cell_prediction,
            cell_nonzero_probability=None if cell_nonzero is None else cell_nonzero.sigmoid(),
            logits=cell_logits,
            batch_logits=batch_logits,
            cell_embedding=encoded.cell_embedding,
            loss_terms={name: term.detach() for name, term in terms.items()} or None,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def generate_expression(
        self,
        cell_embedding: Tensor,
        input_ids: Tensor,
        expression_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        batch_labels: Tensor | None = None,
        modality_ids: Tensor | None = None,
    ) -> Tensor:
        """Values `(batch, genes)` of `input_ids`, generated from a `(batch, hidden)` cell embedding at position 0."""
        encoded = self.model(
            input_ids,
            expression_values,
            attention_mask=attention_mask,
            batch_labels=batch_labels,
            input_cell_embedding=cell_embedding,
        )
        return self._decode_genes(encoded.last_hidden_state, batch_labels, modality_ids)[0]

    def _decode_genes(self, hidden_states: Tensor, batch_labels: Tensor | None, modality_ids: Tensor | None):
        if self.context is not None:
            context = self.context(batch_labels, modality_ids, hidden_states.shape[1])
            hidden_states = torch.cat([hidden_states, context], dim=-1)
        return self.expression_decoder(hidden_states)

    def _decode_cell(self, encoded: CellModelOutput, batch_labels: Tensor | None, modality_ids: Tensor | None):
        if self.cell_expression_decoder is None:
            return None, None
        cell, genes = encoded.cell_embedding, encoded.gene_embeddings
        if self.context is not None:
            context = self.context(batch_labels, modality_ids, genes.shape[1])
            cell = torch.cat([cell, context[:, 0]], dim=-1)
            genes = torch.cat([genes, context], dim=-1) if self.config.multiomic_decoder else genes
        return self.cell_expression_decoder(cell, genes)

    def _cell_losses(
        self,
        cell_embedding: Tensor,
        cell_logits: Tensor | None,
        cell_type_labels: Tensor | None,
        batch_logits: Tensor | None,
        batch_labels: Tensor | None,
    ) -> dict[str, Tensor]:
        terms = {}
        if cell_type_labels is not None:
            if cell_logits is None:
                raise ConfigurationError("`cell_type_labels` need the classifier: set `config.use_classifier=True`.")
            terms["classification"] = classification_loss(
                cell_logits, cell_type_labels, self.config, name="cell_type_labels"
            )
        if self.config.use_ecs:
            similarity = elastic_cell_similarity(cell_embedding, self.config.ecs_threshold)
            terms["elastic_similarity"] = self.config.ecs_weight * similarity
        if batch_logits is not None:
            if batch_labels is None:
                raise ConfigurationError("The batch discriminator learns from `batch_labels`: pass them.")
            loss = F.cross_entropy(batch_logits.float(), batch_labels)
            terms["batch_discriminator"] = self.config.batch_discriminator_weight * loss
        return terms


@auto_docstring(
    custom_intro="scGPT with a classifier of cells on the cell embedding, as in the paper's annotation task."
)
class ScGPTForSequenceClassification(ScGPTPreTrainedModel):
    embeds_cells_alone = True
    # genes to generate belong to pre-training
    _untrained = (r"model\.embeddings\.flags\.",)
    _keys_to_ignore_on_load_unexpected = [rf"^{head}\." for head in HEADS if head != "classifier"]

    def __init__(self, config: ScGPTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = ScGPTModel(config)
        self.classifier = classifier_head(config)
        self.post_init()

    @can_return_tuple
    @with_common_heads
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        expression_values: torch.FloatTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        batch_labels: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellClassifierOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids, `<cls>` first.
        expression_values (`torch.FloatTensor` of shape `(batch, genes)`, *optional*):
            The value of each gene (bins).
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions.
        batch_labels (`torch.LongTensor` of shape `(batch,)`, *optional*):
            Batch of each cell, where the model was trained with them.
        labels (`torch.LongTensor` of shape `(batch,)`, *optional*):
            Cell types, or what `config.problem_type` asks for; -100 is ignored.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(input_ids, expression_values, attention_mask, batch_labels, **kwargs)
        logits = self.classifier(encoded.cell_embedding)
        return CellClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config, num_items),
            logits=logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


@auto_docstring(
    custom_intro="""
    scGPT that predicts expression after a perturbation: `prediction = A(h) · value + b(h)` for every gene, from the
    unperturbed cell and a flag for each gene.
    """
)
class ScGPTForPerturbation(ScGPTPreTrainedModel):
    # the published loss is on the perturbation decoder alone
    _untrained = (r"model\.embeddings\.flags\.", r"cell_expression_decoder\.", r"classifier\.")

    def __init__(self, config: ScGPTConfig):
        super().__init__(config)
        self.model = ScGPTModel(config)
        self.perturbations = nn.Embedding(3, config.hidden_size, padding_idx=config.perturbation_pad_id)
        self.coefficient_decoder = ScGPTExpressionDecoder(config, config.hidden_size)
        self.bias_decoder = ScGPTExpressionDecoder(config, config.hidden_size)
        self.activation = _activation(config.decoder_activation)
        self.cell_expression_decoder = None
        if config.mvc_style is not None:
            self.cell_expression_decoder = ScGPTCellExpressionDecoder(config, config.hidden_size, config.hidden_size)
        self.classifier = classifier_head(config) if config.use_classifier else None
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        expression_values: torch.FloatTensor | None = None,
        perturbation_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        labels: torch.FloatTensor | None = None,
        do_sample: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ScGPTExpressionOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`):
            Gene ids.
        expression_values (`torch.FloatTensor` of shape `(batch, genes)`):
            Expression of the unperturbed cell, normalised and log-transformed as in training.
        perturbation_ids (`torch.LongTensor` of shape `(batch, genes)`):
            1 where the gene is perturbed, 0 elsewhere.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions; the published procedure passes none, so that padding takes part.
        labels (`torch.FloatTensor` of shape `(batch, genes)`, *optional*):
            Expression after the perturbation; -100 is ignored.
        do_sample (`bool`, *optional*):
            Whether to draw which genes are zero; by default in evaluation only, where `config.sample_zeros_in_eval`.
        """
        if input_ids is None or expression_values is None or perturbation_ids is None:
            raise ConfigurationError(
                "Predicting a perturbation needs `input_ids`, `expression_values` and `perturbation_ids`, each "
                "(batch, genes)."
            )
        check_cells(self, input_ids=input_ids, expression_values=expression_values, perturbation_ids=perturbation_ids)
        num_items = kwargs.pop("num_items_in_batch", None)
        values = expression_values
        if self.config.num_input_bins > 0:
            values = quantile_bins(values, self.config.num_input_bins)
        flags = self.perturbations(perturbation_ids)
        encoded = self.model(input_ids, values, attention_mask, extra_embeddings=flags, **kwargs)
        prediction, nonzero = self._decode(encoded.last_hidden_state, expression_values)
        if do_sample is None:
            do_sample = self.config.sample_zeros_in_eval and not self.training
        cell_prediction, cell_nonzero = None, None
        if self.cell_expression_decoder is not None:
            cell_prediction, cell_nonzero = self.cell_expression_decoder(
                encoded.cell_embedding, encoded.gene_embeddings
            )
        return ScGPTExpressionOutput(
            loss=None if labels is None else masked_mse(prediction, labels, num_items),
            expression_prediction=_sample_zeros(prediction, nonzero) if do_sample else prediction,
            nonzero_probability=None if nonzero is None else nonzero.sigmoid(),
            cell_expression_prediction=cell_prediction,
            cell_nonzero_probability=None if cell_nonzero is None else cell_nonzero.sigmoid(),
            logits=None if self.classifier is None else self.classifier(encoded.cell_embedding),
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def _decode(self, hidden_states: Tensor, values: Tensor) -> tuple[Tensor, Tensor | None]:
        coefficient, nonzero = self.coefficient_decoder(hidden_states)
        bias, _ = self.bias_decoder(hidden_states)
        if self.activation is not None:
            coefficient, bias = self.activation(coefficient), self.activation(bias)
        if self.config.decoder_adaptive_bias:
            bias = bias * (values.sum(dim=1, keepdim=True) / (values != 0).sum(dim=1, keepdim=True))
        return coefficient * values + bias, nonzero


def _activation(name: str | None) -> nn.Module | None:
    if name is None:
        return None
    if name not in nn.modules.activation.__all__:
        raise ConfigurationError(
            f"`decoder_activation` must name an activation of `torch.nn`, for example 'Softplus', got {name!r}."
        )
    return getattr(nn, name)()


def _sample_zeros(prediction: Tensor, nonzero_logits: Tensor | None) -> Tensor:
    """The prediction with zeros drawn from the probability of being expressed (torch's global generator)."""
    if nonzero_logits is None:
        return prediction
    return torch.bernoulli(nonzero_logits.sigmoid()) * prediction


def quantile_bins(values: Tensor, num_bins: int) -> Tensor:
    """Per-cell quantile bins of `(batch, genes)` values: 0 for zeros, 1 … `num_bins - 1` otherwise.

    Values that fall on several coinciding bin edges are spread over them at random (torch's global generator).
    """
    quantiles = torch.linspace(0, 1, num_bins - 1, dtype=torch.float64, device=values.device)
    expressed = values != 0
    numbers = values.double()
    edges = torch.nanquantile(numbers.masked_fill(~expressed, torch.nan), quantiles, dim=1).T.contiguous()
    left = torch.searchsorted(edges, numbers, right=True)
    right = torch.searchsorted(edges, numbers)
    digits = torch.ceil(torch.rand_like(numbers) * (right - left) + left)
    return torch.where(expressed, digits, 0).to(values.dtype)


__all__ = [
    "ScGPTForMaskedExpression",
    "ScGPTForPerturbation",
    "ScGPTForSequenceClassification",
    "ScGPTModel",
    "ScGPTPreTrainedModel",
]
