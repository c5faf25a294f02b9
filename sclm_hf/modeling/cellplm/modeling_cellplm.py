"""CellPLM (Wen et al., "CellPLM: Pre-training of Cell Language Model Beyond Single Cells", ICLR 2024).

Tokens are cells: a forward pass reads the cells of one sample, and cells attend to one another. A cell comes in as the
sum of the embeddings of its genes, weighed by the logarithm of their counts, and goes out as a latent variable, from
which a decoder tells the distribution of its counts.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, auto_docstring, can_return_tuple

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.losses import IGNORE, check_targets, classification_loss, mean_over_targets
from sclm_hf.modeling.common.outputs import CellClassifierOutput
from sclm_hf.modeling.common.probe import head_size, probe_leaves, with_common_heads

from .configuration_cellplm import CellPLMConfig
from .modeling_cellplm_encoder import CellPLMModel, CellPLMPreTrainedModel
from .modeling_cellplm_layers import NegativeBinomialDecoder
from .modeling_cellplm_losses import negative_binomial_nll, regression, rescaled, share_of_step
from .modeling_cellplm_variants import MLPDecoder, ResidualMLPDecoder

DECODERS = {"nbmlp": NegativeBinomialDecoder, "mlp": MLPDecoder, "resmlp": ResidualMLPDecoder}

_LEAST_MEAN = 1e-5


@dataclass
class CellPLMExpressionOutput(ModelOutput):
    """What models of counts return.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Scalar, when labels were given: that of the counts and that of the latent variable.
        expression_prediction (`torch.FloatTensor`, *optional*):
            `(cells, genes)` expected counts.
        dispersion (`torch.FloatTensor`, *optional*):
            `(genes,)` dispersions of the negative binomial distribution.
        cell_embedding (`torch.FloatTensor`, *optional*):
            `(cells, cell_embedding_size)`.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*):
            One `(cells, hidden)` per layer, when asked for.
        expression_loss (`torch.FloatTensor`, *optional*):
            That of the counts alone.
        latent_loss (`torch.FloatTensor`, *optional*):
            That of the latent variable.
    """

    loss: torch.FloatTensor | None = None
    expression_prediction: torch.FloatTensor | None = None
    dispersion: torch.FloatTensor | None = None
    cell_embedding: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    expression_loss: torch.FloatTensor | None = None
    latent_loss: torch.FloatTensor | None = None


@auto_docstring(
    custom_intro="""
    CellPLM with its decoder: the distribution of counts of each cell. Pre-training hides counts of some cells; the
    loss is the negative log-likelihood of all genes of these cells, and once more of what was hidden. Of z-scores, it
    is the mean squared error of all genes of these cells.
    """
)
class CellPLMForMaskedExpression(CellPLMPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^head\."]

    def __init__(self, config: CellPLMConfig):
        super().__init__(config)
        self.model = CellPLMModel(config)
        self.decoder = DECODERS[config.decoder_type](config)
        self.post_init()

    @property
    def predicted_expression(self) -> str:
        """What `expression_prediction` is: `"counts"` or `"z-scores"`."""
        return "z-scores" if self.config.input_encoding == "zscored" else "counts"

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the gene table and the decoder; its new rows are 0."""
        table = super().resize_token_embeddings(*args, **kwargs)
        if table.num_embeddings != getattr(self.decoder, self.decoder.gene_tables[0]).weight.shape[0]:
            self.decoder.resize(table.num_embeddings)
        return table

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        expression_values: torch.FloatTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        batch_labels: torch.LongTensor | None = None,
        dataset_labels: torch.LongTensor | None = None,
        platform_labels: torch.LongTensor | None = None,
        masked_positions: torch.BoolTensor | None = None,
        labels: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellPLMExpressionOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(genes,)`, *optional*):
            Ids of the genes that the columns are; all in their order by default.
        expression_values (`torch.FloatTensor` of shape `(cells, genes)`):
            Counts, 0 where they are hidden.
        attention_mask (`torch.LongTensor` of shape `(cells,)`, *optional*):
            1 at real cells.
        batch_labels (`torch.LongTensor` of shape `(cells,)`, *optional*):
            Batch of each cell, which the decoder is told.
        dataset_labels (`torch.LongTensor` of shape `(cells,)`, *optional*):
            Data set of each cell.
        platform_labels (`torch.LongTensor` of shape `(cells,)`, *optional*):
            Platform of each cell.
        masked_positions (`torch.BoolTensor` of shape `(cells, genes)`, *optional*):
            Which counts are hidden; these count twice in the loss.
        labels (`torch.FloatTensor` of shape `(cells, genes)`, *optional*):
            True counts of all genes of the cells that are asked for; -100 in the rows of the others.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(input_ids, expression_values, attention_mask, **kwargs)
        covariates = {"batch": batch_labels, "dataset": dataset_labels, "platform": platform_labels}
        genes = self._genes(input_ids)
        mean, dispersion = self.decoder(encoded.cell_embedding, genes, covariates)
        loss = None if labels is None else self._loss(mean, dispersion, labels, masked_positions)
        return CellPLMExpressionOutput(
            loss=None if loss is None else (loss + encoded.latent_loss) * share_of_step(labels, num_items),
            expression_loss=loss,
            latent_loss=encoded.latent_loss,
            expression_prediction=mean,
            dispersion=dispersion,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
        )

    def _genes(self, input_ids: Tensor | None) -> Tensor:
        return torch.arange(self.config.vocab_size, device=self.device) if input_ids is None else input_ids

    def _loss(self, mean: Tensor, dispersion: Tensor | None, labels: Tensor, masked: Tensor | None) -> Tensor:
        """Sum over genes, mean over the cells that are asked for."""
        check_targets(labels, mean)
        asked = (labels != IGNORE).all(1)
        counts = labels.masked_fill(~asked[:, None], 0).float()
        if self.config.input_encoding == "zscored":
            return mean_over_targets(((mean.float() - counts) ** 2).mean(1), asked)
        if dispersion is None:
            masked = torch.ones_like(counts) if masked is None else masked.float()
            error = ((rescaled(mean.float(), counts) - counts) * masked) ** 2
            return mean_over_targets(error.mean(1), asked)
        nll = negative_binomial_nll(counts, rescaled(mean.float(), counts), dispersion)
        if masked is not None and self.training:
            hidden = masked.float()
            means = rescaled(mean.float() * hidden, counts * hidden)
            nll = nll + negative_binomial_nll(counts * hidden, means, dispersion * hidden)
        return mean_over_targets(nll.sum(1), asked)


@auto_docstring(
    custom_intro="""
    CellPLM for imputation: the counts of all genes asked for, from those that were measured. Expected counts of a cell
    add up, over the genes in the loss, to what the labels do; without labels they are not scaled.
    """
)
class CellPLMForImputation(CellPLMForMaskedExpression):
    # origins are not given, and what stands for them is taken as it is
    _untrained = (r"decoder\.covariates\..*\.embedding\.", r"decoder\.(batches|norm)\.")

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        expression_values: torch.FloatTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        labels: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellPLMExpressionOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(genes,)`, *optional*):
            Ids of the genes that the columns are; all in their order by default.
        expression_values (`torch.FloatTensor` of shape `(cells, genes)`):
            Counts, 0 where they were not measured.
        attention_mask (`torch.LongTensor` of shape `(cells,)`, *optional*):
            1 at real cells.
        labels (`torch.FloatTensor` of shape `(cells, genes)`, *optional*):
            True counts; -100 where they are not known.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        output = super().forward(input_ids, expression_values, attention_mask, **kwargs)
        if labels is None:
            return output
        if output.dispersion is None:
            raise ConfigurationError("The imputation of CellPLM needs `decoder_type='nbmlp'` in the configuration.")
        check_targets(labels, output.expression_prediction)
        known = labels != IGNORE
        counts, mean = labels.masked_fill(~known, 0).float(), output.expression_prediction.float()
        # a cell of which nothing is known is not scaled: 0 / 0 would have no gradient
        scale = counts.sum(1, keepdim=True) / (mean * known).sum(1, keepdim=True).clamp(min=_LEAST_MEAN)
        mean = mean * torch.where(known.any(1, keepdim=True), scale, 1.0)
        nll = negative_binomial_nll(counts, mean, output.dispersion)
        loss = mean_over_targets(torch.where(known, nll, 0.0).sum(1), known.any(1))
        whole = (loss + output.latent_loss) * share_of_step(labels, num_items)
        # what is set later on an output comes last in it
        return replace(output, loss=whole, expression_loss=loss, expression_prediction=mean)


class CellPLMHead(nn.Module):
    """Linear layers over cell embeddings, with dropout before each and ReLU between them."""

    def __init__(self, config: CellPLMConfig, num_outputs: int):
        super().__init__()
        widths = [config.cell_embedding_size] + [config.head_hidden_size] * (config.num_head_layers - 1)
        self.layers = nn.ModuleList(map(nn.Linear, widths, [*widths[1:], num_outputs]))
        self.dropout = nn.Dropout(config.head_dropout)

    def forward(self, cell_embedding: Tensor) -> Tensor:
        hidden_states = cell_embedding
        for number, layer in enumerate(self.layers):
            hidden_states = layer(self.dropout(F.relu(hidden_states) if number else hidden_states))
        return hidden_states


@auto_docstring(custom_intro="CellPLM with a classifier of cells.")
class CellPLMForSequenceClassification(CellPLMPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^head\.", r"^model\.latent\."]

    def __init__(self, config: CellPLMConfig):
        # the caller's configuration may serve other models
        config = copy.deepcopy(config)
        if probe_leaves(config) != []:
            config.latent_type = config.classifier_latent_type or config.latent_type
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = CellPLMModel(config)
        self.classifier = CellPLMHead(config, head_size(config))
        self.post_init()

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
        input_ids (`torch.LongTensor` of shape `(genes,)`, *optional*):
            Ids of the genes that the columns are; all in their order by default.
        expression_values (`torch.FloatTensor` of shape `(cells, genes)`):
            Counts of the cells of one sample.
        attention_mask (`torch.LongTensor` of shape `(cells,)`, *optional*):
            1 at real cells.
        labels (`torch.LongTensor` of shape `(cells,)`, *optional*):
            Cell types, or what `config.problem_type` asks for; -100 is ignored.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(input_ids, expression_values, attention_mask, **kwargs)
        logits = self.classifier(encoded.cell_embedding)
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config) + encoded.latent_loss
            loss = loss * share_of_step(labels, num_items)
        return CellClassifierOutput(
            loss=loss,
            logits=logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
        )


@auto_docstring(
    custom_intro="CellPLM with a classifier of whole samples, such as patients, by the mean of their cells."
)
class CellPLMForSampleClassification(CellPLMPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^classifier\."]

    def __init__(self, config: CellPLMConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = CellPLMModel(config)
        self.head = nn.Linear(config.cell_embedding_size, config.num_labels)
        self.post_init()

    @can_return_tuple
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
        input_ids (`torch.LongTensor` of shape `(genes,)`, *optional*):
            Ids of the genes that the columns are; all in their order by default.
        expression_values (`torch.FloatTensor` of shape `(cells, genes)`):
            Counts of the cells of one sample.
        attention_mask (`torch.LongTensor` of shape `(cells,)`, *optional*):
            1 at real cells.
        labels (`torch.LongTensor` of shape `(1,)`, *optional*):
            Class of the sample, or what `config.problem_type` asks for.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(input_ids, expression_values, attention_mask, **kwargs)
        weights = torch.ones_like(encoded.cell_embedding[:, :1]) if attention_mask is None else attention_mask[:, None]
        mean = (encoded.cell_embedding * weights).sum(0, keepdim=True) / weights.sum()
        logits = self.head(mean)
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config) + encoded.latent_loss
            loss = loss * share_of_step(labels, num_items)
        return CellClassifierOutput(
            loss=loss,
            logits=logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
        )


@auto_docstring(
    custom_intro="""
    CellPLM with a head that predicts the expression of `config.num_outputs` genes from a cell's embedding:
    `config.head_objective` says what for.
    """
)
class CellPLMForExpressionRegression(CellPLMPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^classifier\."]

    def __init__(self, config: CellPLMConfig):
        super().__init__(config)
        self.model = CellPLMModel(config)
        self.head = CellPLMHead(config, config.num_outputs)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        expression_values: torch.FloatTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        masked_positions: torch.BoolTensor | None = None,
        labels: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellPLMExpressionOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(genes,)`, *optional*):
            Ids of the genes that the columns are; all in their order by default.
        expression_values (`torch.FloatTensor` of shape `(cells, genes)`):
            Counts of the cells of one sample.
        attention_mask (`torch.LongTensor` of shape `(cells,)`, *optional*):
            1 at real cells.
        masked_positions (`torch.BoolTensor` of shape `(cells, num_outputs)`, *optional*):
            Denoising: which counts were hidden. Perturbation: which are predicted, the others are 0. All by default.
        labels (`torch.FloatTensor` of shape `(cells, num_outputs)`, *optional*):
            Denoising: true counts. Else true expression. -100 is ignored in imputation.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(input_ids, expression_values, attention_mask, **kwargs)
        prediction, loss = regression(
            self.config.head_objective, self.head(encoded.cell_embedding), labels, masked_positions
        )
        return CellPLMExpressionOutput(
            loss=None if loss is None else (loss + encoded.latent_loss) * share_of_step(labels, num_items),
            expression_loss=loss,
            latent_loss=encoded.latent_loss,
            expression_prediction=prediction,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
        )


__all__ = [
    "CellPLMForExpressionRegression",
    "CellPLMForImputation",
    "CellPLMForMaskedExpression",
    "CellPLMForSampleClassification",
    "CellPLMForSequenceClassification",
    "CellPLMModel",
    "CellPLMPreTrainedModel",
]
