"""Geneformer: transformers' BERT over genes in order of their rank, with the published cell embedding.

Sources: Theodoris et al., "Transfer learning enables predictions in network biology", Nature 618, 616-624 (2023),
doi:10.1038/s41586-023-06139-9; Chen et al., "Quantized multi-task learning for context-specific representations of
gene network dynamics", bioRxiv (2024), doi:10.1101/2024.08.16.608180. Tensors are named as in transformers' BERT, so
that its classes read our folders and ours read theirs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import (
    BertEmbeddings,
    BertEncoder,
    BertOnlyMLMHead,
    BertPooler,
    BertPreTrainedModel,
)
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, auto_docstring, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.base import SclmModelMixin
from sclm_hf.modeling.common.inputs import ATTENTION_KEYWORDS, check_ranked_cells, exactly_one, refuse_keywords
from sclm_hf.modeling.common.losses import (
    IGNORE,
    check_targets,
    class_numbers,
    classification_loss,
    gene_classification_loss,
)
from sclm_hf.modeling.common.outputs import CellClassifierOutput, CellModelOutput, GenesOutput, records_states
from sclm_hf.modeling.common.probe import head_size, probe_leaves, with_common_heads

from .configuration_geneformer import GeneformerConfig


@dataclass
class GeneformerMultiTaskOutput(ModelOutput):
    """What the multi-task classifier returns.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Weighted sum of the tasks' losses, when labels were given.
        losses (`torch.FloatTensor`, *optional*):
            `(tasks,)` the loss of each task before weighting.
        logits (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, classes of the task)` a task.
        cell_embedding (`torch.FloatTensor`, *optional*):
            `(batch, cell_embedding_size)`.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, genes, hidden)` per layer, when asked for.
        attentions (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, heads, genes, genes)` per layer, when asked for.
    """

    loss: torch.FloatTensor | None = None
    losses: torch.FloatTensor | None = None
    logits: tuple[torch.FloatTensor, ...] | None = None
    cell_embedding: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@auto_docstring
class GeneformerPreTrainedModel(SclmModelMixin, BertPreTrainedModel):
    config: GeneformerConfig
    main_input_name = "input_ids"
    _input_embed_layer = "word_embeddings"
    _no_split_modules = ["BertEmbeddings", "BertLayer"]
    _can_compile_fullgraph = True
    # quantisers leave it in float: a classifier's starts random
    _keep_in_fp32_modules = [r"(.*\.)?pooler"]
    # what another class of the family has beside the encoder
    _keys_to_ignore_on_load_unexpected = [
        rf"^(bert\.)?{part}\." for part in ("pooler", "cls", "classifier", "classification_heads", "attention_pool")
    ]

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, GeneformerWeightedMean):
            init.normal_(module.attention_weights, std=self.config.initializer_range)


def mean_over_genes(hidden_states: Tensor, attention_mask: Tensor, has_special_tokens: bool) -> Tensor:
    """Mean over the genes of each cell, (batch, hidden).

    Args:
        hidden_states: (batch, genes, hidden).
        attention_mask: (batch, genes), 1 at real positions, padded on the right.
        has_special_tokens: leave out position 0 (`<cls>`) and the last real one (`<eos>`).
    """
    is_gene = attention_mask.bool()
    if has_special_tokens:
        positions = torch.arange(is_gene.shape[1], device=is_gene.device)
        is_gene = is_gene & (positions > 0) & (positions < is_gene.sum(1, keepdim=True) - 1)
    total = torch.where(is_gene[..., None], hidden_states, 0.0).sum(1)
    return total / is_gene.sum(1, keepdim=True).clamp(min=1)


@auto_docstring(
    custom_intro="""
    The encoder of Geneformer. It gives the last hidden state of every gene, and the cell embedding as published: the
    mean over genes (V1) or `<cls>` (V2) of the layer before the last.
    """
)
class GeneformerModel(GeneformerPreTrainedModel):
    embeds_cells_alone = True

    def __init__(self, config: GeneformerConfig, add_pooling_layer: bool = False):
        r"""
        add_pooling_layer (`bool`, *optional*, defaults to `False`):
            Whether to carry BERT's pooler, which only the classifier of cells uses.
        """
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config) if add_pooling_layer else None
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        cell_embedding_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellModelOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids from the highest rank down; with special tokens between `<cls>` and `<eos>`.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions, padded on the right.
        cell_embedding_only (`bool`, *optional*, defaults to `False`):
            Leave out the layers behind the one that the cell embedding is made of, so that `last_hidden_state` is
            that of this one.
        """
        # transformers fills it in from the configuration, and an encoder has no cache
        kwargs.pop("use_cache", None)
        refuse_keywords(self, kwargs, also=ATTENTION_KEYWORDS)
        exactly_one(input_ids=input_ids, inputs_embeds=inputs_embeds)
        check_ranked_cells(self, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        gene_embeddings = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        hidden_states = self.embeddings(
            inputs_embeds=gene_embeddings, token_type_ids=token_type_ids, position_ids=position_ids
        )
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask
        )
        pooled_layer = range(self.config.num_hidden_layers + 1)[self.config.cell_embedding_layer]
        pooled_states = hidden_states
        needed = cell_embedding_only and not records_states(self, kwargs)
        for number, layer in enumerate(self.encoder.layer[: pooled_layer if needed else None], start=1):
            hidden_states = layer(hidden_states, mask, **kwargs)
            pooled_states = hidden_states if number == pooled_layer else pooled_states
        return CellModelOutput(
            last_hidden_state=hidden_states,
            cell_embedding=self.pool_cells(pooled_states, attention_mask),
            gene_embeddings=gene_embeddings,
        )

    def pool_cells(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The cell embedding `(batch, hidden)` from a layer's `(batch, genes, hidden)`, as `config.pooling` says."""
        if self.config.pooling == "cls":
            return hidden_states[:, 0]
        if attention_mask is None:
            attention_mask = hidden_states.new_ones(hidden_states.shape[:2], dtype=torch.long)
        if attention_mask.ndim != 2:
            raise ConfigurationError(
                "The mean over the genes of a cell needs an `attention_mask` (batch, genes), 1 at real positions; got "
                f"{tuple(attention_mask.shape)}."
            )
        return mean_over_genes(hidden_states, attention_mask, self.config.has_special_tokens)


@auto_docstring(custom_intro="Geneformer that predicts masked genes, as in pre-training.")
class GeneformerForMaskedLM(GeneformerPreTrainedModel):
    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: GeneformerConfig):
        super().__init__(config)
        self.bert = GeneformerModel(config)
        self.cls = BertOnlyMLMHead(config)
        self.post_init()

    def get_output_embeddings(self):
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings):
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> GenesOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids from the highest rank down, some replaced by `<mask>`.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions, padded on the right.
        labels (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            True ids where they are to be predicted, -100 elsewhere.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.bert(input_ids, attention_mask, **kwargs)
        logits = self.cls(encoded.last_hidden_state)
        loss = None
        if labels is not None:
            check_targets(labels, logits[..., 0])
            size = {"vocab_size": self.config.vocab_size}
            loss = self.loss_function(logits, labels, **size, num_items_in_batch=num_items)
        return GenesOutput(
            loss=loss,
            logits=logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


@auto_docstring(
    custom_intro="""
    Geneformer with a classifier of cells on BERT's pooler at position 0: `<cls>` with V2, with V1 the gene of the
    highest rank, as in the original.
    """
)
class GeneformerForSequenceClassification(GeneformerPreTrainedModel):
    def __init__(self, config: GeneformerConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = GeneformerModel(config, add_pooling_layer=probe_leaves(config) != [])
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, head_size(config))
        self.post_init()

    @can_return_tuple
    @with_common_heads
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellClassifierOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids from the highest rank down; with special tokens between `<cls>` and `<eos>`.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions, padded on the right.
        labels (`torch.LongTensor` of shape `(batch,)`, *optional*):
            Cell types, or what `config.problem_type` asks for; -100 is ignored.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.bert(input_ids, attention_mask, **kwargs)
        logits = self.classifier(self.dropout(self.bert.pooler(encoded.last_hidden_state)))
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config, num_items)
        return CellClassifierOutput(
            loss=loss,
            logits=logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


@auto_docstring(custom_intro="Geneformer with a classifier of genes, for example of transcription factors' dosage.")
class GeneformerForTokenClassification(GeneformerPreTrainedModel):
    def __init__(self, config: GeneformerConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = GeneformerModel(config)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> GenesOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids from the highest rank down; with special tokens between `<cls>` and `<eos>`.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions, padded on the right.
        labels (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Classes of genes, or what `config.problem_type` asks for; -100 where there is none.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.bert(input_ids, attention_mask, **kwargs)
        logits = self.classifier(self.dropout(encoded.last_hidden_state))
        loss = None
        if labels is not None:
            loss = gene_classification_loss(logits, labels, self.config, num_items)
        return GenesOutput(
            loss=loss,
            logits=logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


class GeneformerWeightedMean(nn.Module):
    """A weighted mean over positions whose weights are the softmax of a learned score."""

    def __init__(self, config: GeneformerConfig):
        super().__init__()
        self.config = config
        self.attention_weights = nn.Parameter(torch.empty(config.hidden_size, 1))

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        scores = (hidden_states @ self.attention_weights).squeeze(-1)
        if attention_mask is not None and not self.config.attention_pooling_includes_padding:
            scores = scores.masked_fill(~attention_mask.bool(), torch.finfo(scores.dtype).min)
        return (scores.softmax(dim=-1)[:, None] @ hidden_states).squeeze(1)


@auto_docstring(
    custom_intro="""
    Geneformer with a linear classifier of cells for each of several tasks, `config.num_labels_per_task`, trained
    together.
    """
)
class GeneformerForMultiTaskClassification(GeneformerPreTrainedModel):
    def __init__(self, config: GeneformerConfig):
        super().__init__(config)
        if not config.num_labels_per_task:
            raise ConfigurationError(
                "`GeneformerForMultiTaskClassification` needs `num_labels_per_task`: the number of classes of each "
                "task, for example [3, 2]."
            )
        self.bert = GeneformerModel(config)
        self.attention_pool = GeneformerWeightedMean(config) if config.multitask_pooling == "attention" else None
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classification_heads = nn.ModuleList(
            nn.Linear(config.hidden_size, classes) for classes in config.num_labels_per_task
        )
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> GeneformerMultiTaskOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids from the highest rank down; with special tokens between `<cls>` and `<eos>`.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions, padded on the right.
        labels (`torch.LongTensor` of shape `(batch, tasks)`, *optional*):
            A class for each task; -100 is ignored. With `num_items_in_batch` the tasks are taken to have equally many.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.bert(input_ids, attention_mask, **kwargs)
        if self.attention_pool is None:
            pooled = encoded.last_hidden_state[:, 0]
        else:
            pooled = self.attention_pool(encoded.last_hidden_state, attention_mask)
        pooled = self.dropout(pooled)
        logits = tuple(head(pooled) for head in self.classification_heads)
        losses = None if labels is None else self._losses(logits, labels, num_items)
        return GeneformerMultiTaskOutput(
            loss=None if losses is None else (losses * losses.new_tensor(self._task_weights)).sum(),
            losses=losses,
            logits=logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    @property
    def _task_weights(self) -> list[float]:
        return self.config.task_weights or [1.0] * len(self.classification_heads)

    def _losses(self, logits: tuple[Tensor, ...], labels: Tensor, num_items: Tensor | int | None) -> Tensor:
        if labels.shape != (len(logits[0]), len(logits)):
            raise ConfigurationError(
                f"`labels` must be ({len(logits[0])}, {len(logits)}), cells by tasks; got {tuple(labels.shape)}."
            )
        losses = []
        for task, (task_logits, task_labels) in enumerate(zip(logits, labels.unbind(1), strict=True)):
            name = f"labels[:, {task}]"
            task_labels = class_numbers(task_logits, task_labels, name, setting="num_labels_per_task")
            total = nn.functional.cross_entropy(task_logits.float(), task_labels, ignore_index=IGNORE, reduction="sum")
            count = (task_labels != IGNORE).sum().clamp(min=1) if num_items is None else num_items / len(logits)
            losses.append(total / count)
        return torch.stack(losses)


def classifier_dropout(config: GeneformerConfig) -> float:
    """Dropout before a classifier: `config.classifier_dropout`, by default as in the encoder."""
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout


__all__ = [
    "GeneformerForMaskedLM",
    "GeneformerForMultiTaskClassification",
    "GeneformerForSequenceClassification",
    "GeneformerForTokenClassification",
    "GeneformerModel",
    "GeneformerPreTrainedModel",
]
