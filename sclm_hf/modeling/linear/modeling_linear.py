"""A linear model: the embedding of a cell is the sum of its genes' vectors, each times the gene's value.

With z-scores as values it is logistic regression on z-scored counts, where a gene's vector holds its weights, or on
principal components, where it holds its loadings. Made from fitted ones by `sclm_hf.training.linear`.
"""

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.base import SclmPreTrainedModel
from sclm_hf.modeling.common.gene_bag import weighted_rows
from sclm_hf.modeling.common.initialization import draw_linear
from sclm_hf.modeling.common.inputs import check_cells, exactly_one, refuse_keywords
from sclm_hf.modeling.common.losses import classification_loss
from sclm_hf.modeling.common.outputs import CellClassifierOutput, CellModelOutput
from sclm_hf.modeling.common.probe import head_size, with_common_heads

from .configuration_linear import LinearConfig


@auto_docstring
class LinearPreTrainedModel(SclmPreTrainedModel):
    config: LinearConfig
    supports_gradient_checkpointing = False
    _can_record_outputs = {}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.Linear):
            draw_linear(module)
        else:
            super()._init_weights(module)


@auto_docstring(custom_intro="The projection alone: genes and values in, one vector per cell out.")
class LinearModel(LinearPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    def __init__(self, config: LinearConfig):
        super().__init__(config)
        self.genes = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()

    @can_return_tuple
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
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids.
        expression_values (`torch.FloatTensor` of shape `(batch, genes)`):
            The value of each gene: its z-score, where the model was fitted on these.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions.
        inputs_embeds (`torch.FloatTensor` of shape `(batch, genes, hidden)`, *optional*):
            Rows of the gene table, in the place of `input_ids`.
        """
        refuse_keywords(self, kwargs)
        exactly_one(input_ids=input_ids, inputs_embeds=inputs_embeds)
        if expression_values is None:
            raise ConfigurationError("A linear model sums values: pass `expression_values`, as the processor gives.")
        tensors = {"input_ids": input_ids, "expression_values": expression_values, "attention_mask": attention_mask}
        check_cells(self, inputs_embeds=inputs_embeds, **tensors)
        values = expression_values.to(self.genes.weight.dtype)
        if attention_mask is not None:
            values = values.masked_fill(attention_mask == 0, 0.0)
        wants_genes = kwargs.get("output_hidden_states", self.config.output_hidden_states)
        if inputs_embeds is None and not wants_genes:
            # a whole transcriptome, one vector per gene and cell, would fill the memory
            summed = weighted_rows(self.genes.weight, input_ids.long(), values)
            return CellModelOutput(cell_embedding=summed)
        embeddings = self.genes(input_ids) if inputs_embeds is None else inputs_embeds
        hidden_states = embeddings * values.unsqueeze(-1)
        return CellModelOutput(
            last_hidden_state=hidden_states,
            cell_embedding=hidden_states.sum(dim=1),
            gene_embeddings=embeddings,
            hidden_states=(hidden_states,) if wants_genes else None,
        )


@auto_docstring(custom_intro="A linear model with a classifier of cells: logistic regression.")
class LinearForSequenceClassification(LinearPreTrainedModel):
    def __init__(self, config: LinearConfig):
        super().__init__(config)
        self.model = LinearModel(config)
        self.classifier = nn.Linear(config.hidden_size, head_size(config))
        self.post_init()

    @can_return_tuple
    @with_common_heads
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        expression_values: torch.FloatTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellClassifierOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            Gene ids.
        expression_values (`torch.FloatTensor` of shape `(batch, genes)`):
            The value of each gene.
        attention_mask (`torch.LongTensor` of shape `(batch, genes)`, *optional*):
            1 at real positions.
        inputs_embeds (`torch.FloatTensor` of shape `(batch, genes, hidden)`, *optional*):
            Rows of the gene table, in the place of `input_ids`.
        labels (`torch.Tensor` of shape `(batch,)` or `(batch, num_labels)`, *optional*):
            Classes, sets of classes or numbers, see `config.problem_type`.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(input_ids, expression_values, attention_mask, inputs_embeds, **kwargs)
        logits = self.classifier(encoded.cell_embedding)
        return CellClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config, num_items),
            logits=logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
        )


__all__ = ["LinearForSequenceClassification", "LinearModel", "LinearPreTrainedModel"]
