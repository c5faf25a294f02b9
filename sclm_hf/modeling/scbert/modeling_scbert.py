"""scBERT (Yang et al., Nature Machine Intelligence 2022, doi:10.1038/s42256-022-00534-z).

A Performer over all genes of a cell in a fixed order. A token is the sum of a gene embedding (gene2vec, frozen, in the
place of positions) and an embedding of the gene's expression bin; it is trained to name masked bins.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, auto_docstring, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.attention.performer import (
    PerformerFeatures,
    PerformerRedraw,
    mean_attention,
    orthogonal_random_features,
)
from sclm_hf.modeling.common.base import SclmPreTrainedModel
from sclm_hf.modeling.common.initialization import draw_linear
from sclm_hf.modeling.common.inputs import check_cells, refuse_keywords
from sclm_hf.modeling.common.losses import check_targets, classification_loss, cross_entropy
from sclm_hf.modeling.common.outputs import CellClassifierOutput, CellModelOutput
from sclm_hf.modeling.common.performer import PerformerAttention, PerformerLayer
from sclm_hf.modeling.common.probe import head_size, with_common_heads

from .configuration_scbert import ScBERTConfig

CLASSIFIER_WIDTHS = (512, 128)


class ScBERTGeneEmbedding(nn.Embedding):
    """The gene table: gene2vec where a checkpoint brings it. A new one is drawn at random if it is learned, and zero,
    as the original's without gene2vec, if it is frozen.
    """


class ScBERTEmbeddings(nn.Module):
    """Embeddings of bins and of genes."""

    def __init__(self, config: ScBERTConfig):
        super().__init__()
        self.values = nn.Embedding(config.num_bins + 1, config.hidden_size)
        self.genes = ScBERTGeneEmbedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, gene_embeddings: Tensor, expression_values: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self._check_bins(expression_values)
        return self.dropout(self.values(expression_values.long()) + gene_embeddings)

    def _check_bins(self, values: Tensor) -> None:
        largest = self.values.num_embeddings - 1
        if values.numel() and not bool(((values == values.round()) & (values >= 0) & (values <= largest)).all()):
            raise ConfigurationError(
                f"`expression_values` must be bins, whole numbers from 0 to {largest} (masked), as scBERT's processor "
                f"makes them; they reach from {values.min().item():g} to {values.max().item():g}"
                f"{'' if bool((values == values.round()).all()) else ' and are not whole'}."
            )


class ScBERTPreTrainedModel(SclmPreTrainedModel):
    """Weights as torch draws them; random features are buffers that are saved."""

    config: ScBERTConfig
    main_input_name = "expression_values"
    # training forwards are counted, to draw random features anew
    _can_compile_fullgraph = False
    _no_split_modules = ["PerformerLayer"]
    _can_record_outputs = {"hidden_states": PerformerLayer, "attentions": PerformerAttention}
    _supports_sdpa = False
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = False

    @property
    def untrained(self) -> tuple[str, ...]:
        return (r"(model\.)?embeddings\.genes\.",) if self.config.freeze_gene_embeddings else ()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PerformerFeatures):
            init.copy_(module.projection, orthogonal_random_features(*module.projection.shape))
        elif isinstance(module, PerformerRedraw):
            init.zeros_(module.calls)
        elif isinstance(module, ScBERTGeneEmbedding):
            # zeros that are learned would keep genes of a bin alike, all on one side of the classifier's ReLU
            if self.config.freeze_gene_embeddings:
                init.zeros_(module.weight)
            else:
                init.normal_(module.weight)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, nn.Linear):
            draw_linear(module)
        else:
            super()._init_weights(module)


@auto_docstring(custom_intro="The bare scBERT encoder: bins of all genes in, one vector per gene and per cell out.")
class ScBERTModel(ScBERTPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^expression_decoder\.", r"^classifier\."]

    def __init__(self, config: ScBERTConfig):
        super().__init__(config)
        self.embeddings = ScBERTEmbeddings(config)
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.redraw = PerformerRedraw(config.redraw_interval)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        expression_values: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellModelOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids; the first rows of the gene table in their order by default. The original has all genes, `<cls>`
            last.
        expression_values (`torch.LongTensor` of shape `(batch, genes)`):
            The bin of each gene, `config.mask_value` where it is masked.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions; the others do not exist for them. The original never pads.
        inputs_embeds (`torch.FloatTensor` of shape `(batch, genes, hidden)`, *optional*):
            In the place of the rows of the gene table that `input_ids` say; these still say which genes they are.
        """
        refuse_keywords(self, kwargs)
        input_ids = self._gene_ids(input_ids, expression_values, attention_mask, inputs_embeds)
        self.redraw(self)
        gene_embeddings = self.embeddings.genes(input_ids) if inputs_embeds is None else inputs_embeds
        hidden_states = self.embeddings(gene_embeddings, expression_values)
        output_attentions = bool(kwargs.get("output_attentions", self.config.output_attentions))
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, self.config.key_maximum, output_attentions)
        hidden_states = self.norm(hidden_states)
        return CellModelOutput(
            last_hidden_state=hidden_states,
            cell_embedding=self._pool(hidden_states, input_ids, attention_mask),
            gene_embeddings=gene_embeddings,
        )

    @torch.no_grad()
    def gene_attention(
        self,
        input_ids: Tensor | None = None,
        expression_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """How much attention each gene gets: what the authors offer as an embedding of the cell and its genes.

        Attention weights are averaged over queries, heads and layers, and the weights of pairs never exist. As in the
        original, each layer is asked again after its own attention has been added.

        Args:
            input_ids, expression_values, attention_mask: as for `forward`.

        Returns:
            `(batch, genes)` float32, of sum 1.
        """
        input_ids = self._gene_ids(input_ids, expression_values, attention_mask)
        hidden_states = self.embeddings(self.embeddings.genes(input_ids), expression_values)
        total = torch.zeros(expression_values.shape, device=hidden_states.device)
        for layer in self.layers:
            hidden_states = layer.attend(hidden_states, attention_mask, self.config.key_maximum)
            attention, tokens = layer.self_attn, layer.norm1(hidden_states)
            query, key = attention.heads(attention.q_proj(tokens)), attention.heads(attention.k_proj(tokens))
            settings = {"mask": attention_mask, "key_maximum": self.config.key_maximum}
            total += mean_attention(query, key, attention.features.projection, **settings).mean(dim=1)
            hidden_states = layer.feed_forward(hidden_states)
        return total / total.sum(dim=1, keepdim=True)

    def _gene_ids(
        self,
        input_ids: Tensor | None,
        expression_values: Tensor | None,
        attention_mask: Tensor | None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        if expression_values is None:
            raise ConfigurationError(
                "scBERT's tokens are bins: pass `expression_values` (batch, genes), as its processor makes them."
            )
        tensors = {"input_ids": input_ids, "attention_mask": attention_mask}
        check_cells(self, expression_values=expression_values, inputs_embeds=inputs_embeds, **tensors)
        if input_ids is not None:
            return input_ids
        count = expression_values.shape[1]
        if count > self.config.num_positions:
            raise ConfigurationError(
                f"The model has {self.config.num_positions} positions, and the cells have {count} values: pass "
                "`input_ids` that say which genes they belong to."
            )
        return torch.arange(count, device=expression_values.device).expand_as(expression_values)

    def _pool(self, hidden_states: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        chosen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if self.config.pooling == "cls":
            chosen = chosen * (input_ids == self.config.cls_token_id)
            if not torch.compiler.is_compiling() and not bool(chosen.any(dim=1).all()):
                raise ConfigurationError(
                    f"With `pooling` 'cls' every cell needs `<cls>` (id {self.config.cls_token_id}), and one "
                    "has none: encode cells with scBERT's processor, or set `pooling` to 'mean'."
                )
        weights = chosen.to(hidden_states.dtype).unsqueeze(1)
        return (weights @ hidden_states).squeeze(1) / weights.sum(dim=2)


def _layer(config: ScBERTConfig) -> PerformerLayer:
    return PerformerLayer(
        config.hidden_size,
        config.num_attention_heads,
        config.head_dim,
        config.num_random_features,
        config.intermediate_size,
        bias=False,
        dropout=config.hidden_dropout_prob,
        norm_eps=config.layer_norm_eps,
    )


@dataclass
class ScBERTExpressionOutput(ModelOutput):
    """What scBERT's pre-training model returns.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Scalar, when labels were given.
        logits (`torch.FloatTensor`, *optional*):
            `(batch, genes, num_bins + 1)` of the bins; the last class is the mask's, which is never right.
        cell_embedding (`torch.FloatTensor`, *optional*):
            `(batch, cell_embedding_size)`.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, genes, hidden)` per layer, when asked for.
        attentions (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, heads, genes, genes)` per layer, when asked for.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    cell_embedding: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@auto_docstring(custom_intro="scBERT with the head of its pre-training: the bin of every gene, masked ones included.")
class ScBERTForMaskedExpression(ScBERTPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    def __init__(self, config: ScBERTConfig):
        super().__init__(config)
        self.model = ScBERTModel(config)
        self.expression_decoder = nn.Linear(config.hidden_size, config.num_bins + 1)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        expression_values: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ScBERTExpressionOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids; the first rows of the gene table in their order by default.
        expression_values (`torch.LongTensor` of shape `(batch, genes)`):
            The bin of each gene, `config.mask_value` where it is masked.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions.
        labels (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            True bins where they are to be predicted, -100 elsewhere.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(input_ids, expression_values, attention_mask, **kwargs)
        logits = self.expression_decoder(encoded.last_hidden_state)
        loss = None
        if labels is not None:
            check_targets(labels, logits[..., 0])
            loss = cross_entropy(logits.flatten(0, 1), labels.flatten().long(), num_items)
        return ScBERTExpressionOutput(
            loss=loss,
            logits=logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


class ScBERTClassifier(nn.Module):
    """The published head: one number per gene, then three linear layers over all genes."""

    def __init__(self, config: ScBERTConfig):
        super().__init__()
        first, second = CLASSIFIER_WIDTHS
        self.num_positions = config.num_positions
        self.gene_reduction = nn.Linear(config.hidden_size, 1)
        self.linear1 = nn.Linear(config.num_positions, first)
        self.linear2 = nn.Linear(first, second)
        self.output = nn.Linear(second, head_size(config))
        self.dropout = nn.Dropout(config.classifier_dropout)

    def forward(self, hidden_states: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        scores = F.relu(self.gene_reduction(hidden_states)).squeeze(-1)
        hidden = self.dropout(F.relu(self.linear1(self._by_gene(scores, input_ids, attention_mask))))
        return self.output(self.dropout(F.relu(self.linear2(hidden))))

    def _by_gene(self, scores: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """Scores `(batch, num_positions)` in the order of the gene table, 0 for genes that are not there."""
        if attention_mask is not None:
            scores = scores * attention_mask
        if input_ids is None:
            return F.pad(scores, (0, self.num_positions - scores.shape[1]))
        # one more slot, for padding and for genes that were added later
        slots = scores.new_zeros(len(scores), self.num_positions + 1)
        return slots.scatter_add(1, input_ids.clamp(max=self.num_positions), scores)[:, :-1]


@auto_docstring(custom_intro="scBERT with the classifier of cells of its fine-tuning.")
class ScBERTForSequenceClassification(ScBERTPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^expression_decoder\."]

    def __init__(self, config: ScBERTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = ScBERTModel(config)
        self.classifier = ScBERTClassifier(config)
        self.post_init()

    def freeze_as_published(self) -> None:
        """Train what the paper's fine-tuning trains: the last layer but one, the final norm and the classifier.

        Raises:
            ConfigurationError: there is only one layer.
        """
        if len(self.model.layers) < 2:
            raise ConfigurationError("The published fine-tuning trains the last layer but one, and there is only one.")
        self.requires_grad_(False)
        for part in (self.model.layers[-2], self.model.norm, self.classifier):
            part.requires_grad_(True)

    @can_return_tuple
    @with_common_heads
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        expression_values: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellClassifierOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids; the first rows of the gene table in their order by default.
        expression_values (`torch.LongTensor` of shape `(batch, genes)`):
            The bin of each gene.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions.
        labels (`torch.LongTensor` of shape `(batch,)`, *optional*):
            Cell types, or what `config.problem_type` asks for; -100 is ignored.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(input_ids, expression_values, attention_mask, **kwargs)
        logits = self.classifier(encoded.last_hidden_state, input_ids, attention_mask)
        return CellClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config, num_items),
            logits=logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


__all__ = ["ScBERTForMaskedExpression", "ScBERTForSequenceClassification", "ScBERTModel", "ScBERTPreTrainedModel"]
