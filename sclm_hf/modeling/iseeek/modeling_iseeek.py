"""iSEEEK: transformers' BERT over genes in order of their rank, with the published cell embedding.

Source: Shen et al., "A universal approach for integrating super large-scale single-cell transcriptomes by exploring
gene rankings", Briefings in Bioinformatics 23, bbab573 (2022), doi:10.1093/bib/bbab573. Tensors are named as in
transformers' BERT, so that its classes read our folders and ours read theirs.
"""

import torch
from torch import nn
from transformers.models.bert.modeling_bert import BertModel, BertOnlyMLMHead, BertPreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple

from sclm_hf.modeling.common.base import SclmModelMixin
from sclm_hf.modeling.common.inputs import ATTENTION_KEYWORDS, check_ranked_cells, exactly_one, refuse_keywords
from sclm_hf.modeling.common.losses import check_targets, classification_loss, gene_classification_loss
from sclm_hf.modeling.common.outputs import CellClassifierOutput, CellModelOutput, GenesOutput
from sclm_hf.modeling.common.probe import head_size, with_common_heads

from .configuration_iseeek import ISEEEKConfig


@auto_docstring
class ISEEEKPreTrainedModel(SclmModelMixin, BertPreTrainedModel):
    config: ISEEEKConfig
    main_input_name = "input_ids"
    _input_embed_layer = "word_embeddings"
    _can_compile_fullgraph = True
    # what another class of the family has beside the encoder
    _keys_to_ignore_on_load_unexpected = [rf"^(bert\.)?{part}\." for part in ("pooler", "cls", "classifier")]


@auto_docstring(
    custom_intro="""
    The encoder of iSEEEK. It gives the last hidden state of every gene, and as cell embedding that of `[CLS]`, as
    published.
    """
)
class ISEEEKModel(ISEEEKPreTrainedModel, BertModel):
    def __init__(self, config: ISEEEKConfig):
        super().__init__(config, add_pooling_layer=False)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellModelOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids from the highest rank down, between `[CLS]` and `[SEP]`.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions, padded on the right.
        """
        refuse_keywords(self, kwargs, also=ATTENTION_KEYWORDS)
        exactly_one(input_ids=input_ids, inputs_embeds=inputs_embeds)
        check_ranked_cells(self, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        encoded = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        return CellModelOutput(
            last_hidden_state=encoded.last_hidden_state,
            cell_embedding=encoded.last_hidden_state[:, 0],
            gene_embeddings=self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


@auto_docstring(custom_intro="iSEEEK that predicts masked genes, as in pre-training.")
class ISEEEKForMaskedLM(ISEEEKPreTrainedModel):
    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: ISEEEKConfig):
        super().__init__(config)
        self.bert = ISEEEKModel(config)
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
            Gene ids from the highest rank down, between `[CLS]` and `[SEP]`, some replaced by `[MASK]`.
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


@auto_docstring(custom_intro="iSEEEK with a linear classifier of cells on the cell embedding. The paper has none.")
class ISEEEKForSequenceClassification(ISEEEKPreTrainedModel):
    def __init__(self, config: ISEEEKConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = ISEEEKModel(config)
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
            Gene ids from the highest rank down, between `[CLS]` and `[SEP]`.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions, padded on the right.
        labels (`torch.LongTensor` of shape `(batch,)`, *optional*):
            Cell types, or what `config.problem_type` asks for; -100 is ignored.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.bert(input_ids, attention_mask, **kwargs)
        logits = self.classifier(self.dropout(encoded.cell_embedding))
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


@auto_docstring(custom_intro="iSEEEK with a linear classifier of genes. The paper has none.")
class ISEEEKForTokenClassification(ISEEEKPreTrainedModel):
    def __init__(self, config: ISEEEKConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = ISEEEKModel(config)
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
            Gene ids from the highest rank down, between `[CLS]` and `[SEP]`.
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


def classifier_dropout(config: ISEEEKConfig) -> float:
    """Dropout before a classifier: `config.classifier_dropout`, by default as in the encoder."""
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout


__all__ = [
    "ISEEEKForMaskedLM",
    "ISEEEKForSequenceClassification",
    "ISEEEKForTokenClassification",
    "ISEEEKModel",
    "ISEEEKPreTrainedModel",
]
