"""tGPT: transformers' GPT-2 over genes in order of their rank, with the published cell embedding.

Source: Shen et al., "Generative pretraining from large-scale transcriptomes for single-cell deciphering", iScience 26,
106536 (2023), doi:10.1016/j.isci.2023.106536. Tensors are named as in transformers' GPT-2, so that its classes read
our folders and ours read theirs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Cache, GenerationMixin
from transformers.models.gpt2.modeling_gpt2 import GPT2Model, GPT2PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple

from sclm_hf.errors import ConfigurationError, ExpressionError
from sclm_hf.modeling.common.base import SclmModelMixin
from sclm_hf.modeling.common.inputs import (
    ATTENTION_KEYWORDS,
    can_look,
    check_ids,
    check_ranked_cells,
    exactly_one,
    refuse_keywords,
)
from sclm_hf.modeling.common.losses import check_targets, classification_loss, gene_classification_loss
from sclm_hf.modeling.common.outputs import CellClassifierOutput, CellModelOutput, GenesOutput
from sclm_hf.modeling.common.probe import head_size, with_common_heads

from .configuration_tgpt import TGPTConfig


@dataclass
class TGPTModelOutput(CellModelOutput):
    """What the decoder without a head returns.

    Args:
        past_key_values (`Cache`, *optional*):
            Keys and values of the genes read so far, with `use_cache`; there is no `cell_embedding` then.
    """

    past_key_values: Cache | None = None


@dataclass
class TGPTCausalLMOutput(GenesOutput):
    """What the prediction of next genes returns; a prompt is no cell, so there is no `cell_embedding`.

    Args:
        past_key_values (`Cache`, *optional*):
            Keys and values of the genes read so far, with `use_cache`.
    """

    past_key_values: Cache | None = None


@auto_docstring
class TGPTPreTrainedModel(SclmModelMixin, GPT2PreTrainedModel):
    config: TGPTConfig
    main_input_name = "input_ids"
    _input_embed_layer = "wte"
    # what another class of the family has beside the decoder, and masks of old versions of transformers
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.", r"^classifier\.", r"\.attn\.(masked_)?bias$"]


def mean_over_genes(hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over the genes of each cell, (batch, hidden): the first and the last real position are no genes.

    Args:
        hidden_states: (batch, genes, hidden).
        attention_mask: (batch, genes), 1 at real positions.

    Raises:
        ExpressionError: a cell has no genes. (The original gives NaN there; compiled, it is zeros here.)
    """
    order = attention_mask.cumsum(1)
    is_gene = attention_mask.bool() & (order > 1) & (order < order[:, -1:])
    count = is_gene.sum(1, keepdim=True)
    if not torch.compiler.is_compiling() and (count == 0).any():
        empty = (count[:, 0] == 0).nonzero()[:5, 0].tolist()
        raise ExpressionError(
            f"Cells without genes between `</b>` and `</s>` have no embedding: numbers {empty} of the batch. Leave "
            "them out."
        )
    return torch.where(is_gene[..., None], hidden_states, 0.0).sum(1) / count.clamp(min=1)


@auto_docstring(
    custom_intro="""
    The decoder of tGPT. It gives the last hidden state of every gene, and the cell embedding as published: its mean
    over the genes, `</b>` and `</s>` left out.
    """
)
class TGPTModel(TGPTPreTrainedModel, GPT2Model):
    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        pool_cells: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TGPTModelOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids from the highest rank down, between `</b>` and `</s>`.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions.
        token_type_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Tokens whose vectors are added, zeros when left out; see `config.embed_token_types`.
        use_cache (`bool`, *optional*, defaults to `False`):
            Whether to return keys and values, to go on with further genes.
        pool_cells (`bool`, *optional*):
            Whether to make the cell embedding, for which a row must be a whole cell. By default where it may be one:
            without keys and values of other genes, a mask for each position, or positions that begin anew in a row.
        """
        refuse_keywords(self, kwargs, also=ATTENTION_KEYWORDS)
        exactly_one(input_ids=input_ids, inputs_embeds=inputs_embeds)
        # a mask is of the genes of the cache as well
        mask = attention_mask if past_key_values is None else None
        check_ranked_cells(self, input_ids, mask, token_type_ids, position_ids, inputs_embeds)
        tokens = inputs_embeds[..., 0] if input_ids is None else input_ids
        if position_ids is None:
            self._check_cache(tokens, past_key_values)
        if not self.config.embed_token_types:
            token_type_ids = None
        elif token_type_ids is None:
            token_type_ids = torch.zeros_like(tokens, dtype=torch.long)
        else:
            check_ids(self, token_type_ids, "token_type_ids")
        use_cache = bool(use_cache)
        decoded = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        cell_embedding = None
        if pool_cells is not False:
            why_not = _no_whole_cells(attention_mask, position_ids, use_cache or past_key_values is not None)
            if pool_cells and why_not:
                raise ConfigurationError(f"A cell embedding is the mean over the genes of a whole cell: {why_not}.")
            if not why_not:
                mask = torch.ones_like(tokens, dtype=torch.long) if attention_mask is None else attention_mask
                cell_embedding = mean_over_genes(decoded.last_hidden_state, mask)
        return TGPTModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            cell_embedding=cell_embedding,
            gene_embeddings=self.wte(input_ids) if inputs_embeds is None else inputs_embeds,
            hidden_states=decoded.hidden_states,
            attentions=decoded.attentions,
            past_key_values=decoded.past_key_values,
        )

    def _check_cache(self, tokens: Tensor, past_key_values: Cache | None) -> None:
        if past_key_values is None or not can_look(tokens):
            return
        read, longest = int(past_key_values.get_seq_length()) + tokens.shape[1], self.config.n_positions
        if read > longest:
            raise ConfigurationError(
                f"Cells of {read:,} tokens do not fit the model, which reads {longest:,}: set `max_length` of the "
                "processor to that, or generate fewer genes."
            )


def _no_whole_cells(attention_mask: Tensor | None, position_ids: Tensor | None, cached: bool) -> str | None:
    """Why the rows of a batch cannot be taken for a cell each, or None."""
    if cached:
        return "leave `past_key_values` and `use_cache` out"
    if attention_mask is not None and attention_mask.ndim != 2:
        return "pass `attention_mask` as (batch, genes), or `pool_cells=False`"
    if attention_mask is not None or position_ids is None or torch.compiler.is_compiling():
        return None
    if (position_ids.diff(dim=1) != 1).any():
        return "`position_ids` begin anew in a row, which then holds several; give each a row of its own"
    return None


@auto_docstring(custom_intro="tGPT that predicts the next gene of the ranking, as in pre-training.")
class TGPTForCausalLM(TGPTPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}

    def __init__(self, config: TGPTConfig):
        super().__init__(config)
        self.transformer = TGPTModel(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        labels: torch.LongTensor | None = None,
        shift_labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TGPTCausalLMOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids from the highest rank down, after `</b>`.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions.
        token_type_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Tokens whose vectors are added, zeros when left out; see `config.embed_token_types`.
        use_cache (`bool`, *optional*, defaults to `False`):
            Whether to return keys and values, to go on with further genes.
        labels (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            The ids themselves, -100 where they are not to be predicted: each is predicted from those before it.
        shift_labels (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            At each position the id that follows it, -100 where none is to be predicted; in the place of `labels`.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        decoded = self.transformer(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pool_cells=False,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(decoded.last_hidden_state[:, kept])
        loss = None
        if labels is not None or shift_labels is not None:
            check_targets(labels if shift_labels is None else shift_labels, logits[..., 0])
            targets = {"labels": labels, "shift_labels": shift_labels, "vocab_size": self.config.vocab_size}
            loss = self.loss_function(logits, **targets, num_items_in_batch=num_items)
        return TGPTCausalLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=decoded.hidden_states,
            attentions=decoded.attentions,
            past_key_values=decoded.past_key_values,
        )


@auto_docstring(custom_intro="tGPT with a linear classifier of cells on the cell embedding. The paper has none.")
class TGPTForSequenceClassification(TGPTPreTrainedModel):
    def __init__(self, config: TGPTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = TGPTModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.n_embd, head_size(config))
        self.post_init()

    @can_return_tuple
    @with_common_heads
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellClassifierOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids from the highest rank down, between `</b>` and `</s>`.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions.
        token_type_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Tokens whose vectors are added, zeros when left out; see `config.embed_token_types`.
        labels (`torch.LongTensor` of shape `(batch,)`, *optional*):
            Cell types, or what `config.problem_type` asks for; -100 is ignored.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        decoded = self.transformer(input_ids, attention_mask, token_type_ids, pool_cells=True, **kwargs)
        logits = self.classifier(self.dropout(decoded.cell_embedding))
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config, num_items)
        return CellClassifierOutput(
            loss=loss,
            logits=logits,
            cell_embedding=decoded.cell_embedding,
            hidden_states=decoded.hidden_states,
            attentions=decoded.attentions,
        )


@auto_docstring(custom_intro="tGPT with a linear classifier of genes. The paper has none.")
class TGPTForTokenClassification(TGPTPreTrainedModel):
    def __init__(self, config: TGPTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = TGPTModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.n_embd, config.num_labels)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> GenesOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids from the highest rank down, between `</b>` and `</s>`.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions.
        token_type_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Tokens whose vectors are added, zeros when left out; see `config.embed_token_types`.
        labels (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Classes of genes, or what `config.problem_type` asks for; -100 where there is none.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        decoded = self.transformer(input_ids, attention_mask, token_type_ids, **kwargs)
        logits = self.classifier(self.dropout(decoded.last_hidden_state))
        loss = None
        if labels is not None:
            loss = gene_classification_loss(logits, labels, self.config, num_items)
        return GenesOutput(
            loss=loss,
            logits=logits,
            cell_embedding=decoded.cell_embedding,
            hidden_states=decoded.hidden_states,
            attentions=decoded.attentions,
        )


__all__ = [
    "TGPTForCausalLM",
    "TGPTForSequenceClassification",
    "TGPTForTokenClassification",
    "TGPTModel",
    "TGPTPreTrainedModel",
]
