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
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, auto_docstring, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.attention.performer import PerformerFeatures, orthogonal_random_features
from sclm_hf.modeling.common.base import SclmPreTrainedModel
from sclm_hf.modeling.common.initialization import draw_linear
from sclm_hf.modeling.common.inputs import can_look, check_ids, refuse_keywords
from sclm_hf.modeling.common.losses import IGNORE, check_targets, classification_loss, counts, mean_over_targets
from sclm_hf.modeling.common.outputs import CellClassifierOutput, CellModelOutput
from sclm_hf.modeling.common.probe import head_size, probe_leaves, with_common_heads

from .configuration_cellplm import CellPLMConfig
from .modeling_cellplm_layers import (
    CellLayer,
    GaussianLatent,
    GeneRows,
    LinearLatent,
    MixtureLatent,
    NegativeBinomialDecoder,
    WarmUp,
    in_chunks,
    make_norm,
)
from .modeling_cellplm_variants import (
    CosformerLayer,
    MLPDecoder,
    MLPLayer,
    PerformerLayer,
    ResidualMLPDecoder,
    SpectralLayer,
    SpectralLinear,
    SplitLatent,
)

ENCODERS = {
    "flowformer": CellLayer,
    "performer": PerformerLayer,
    "cosformer": CosformerLayer,
    "transformer": SpectralLayer,
    "mlp": MLPLayer,
}
LATENTS = {"gmvae": MixtureLatent, "vae": GaussianLatent, "ae": LinearLatent, "split": SplitLatent}
DECODERS = {"nbmlp": NegativeBinomialDecoder, "mlp": MLPDecoder, "resmlp": ResidualMLPDecoder}

_LEAST_MEAN = 1e-5
_COUNT_EPS = 1e-10
_GENE_SCALE, _TARGET_SUM = 0.005, 1e4


def negative_binomial_nll(counts: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    """(cells, genes) negative log-likelihood of counts."""
    counts, mean, dispersion = counts.float(), mean.float(), dispersion.float()
    inverse = dispersion + _COUNT_EPS
    combinations = torch.lgamma(inverse) + torch.lgamma(counts + 1) - torch.lgamma(counts + inverse)
    likelihood = (dispersion + counts) * torch.log1p(mean / inverse) + counts * (
        inverse.log() - (mean + _COUNT_EPS).log()
    )
    return combinations + likelihood


def rescaled(mean: Tensor, counts: Tensor) -> Tensor:
    """Means that add up in each cell to what the counts do; 0 in cells where nothing is asked for."""
    # nothing hidden: 0 / 0 would have no gradient
    total = mean.sum(1, keepdim=True).clamp(min=torch.finfo(mean.dtype).tiny)
    return mean * (counts.sum(1, keepdim=True) / total)


def share_of_step(labels: Tensor, num_items: Tensor | int | None) -> Tensor | float:
    """What a sample's mean loss counts in a step over several samples: its share of the labels.

    Args:
        labels: of one sample, -100 where there is none.
        num_items: the labels of the step; None = the sample is the step.
    """
    return 1.0 if num_items is None else counts(labels).sum() / num_items


def make_layers(config: CellPLMConfig) -> nn.ModuleList:
    """The layers of the encoder that a configuration names."""
    count = 0 if config.encoder_type == "none" else config.num_hidden_layers
    return nn.ModuleList(ENCODERS[config.encoder_type](config) for _ in range(count))


@dataclass
class CellPLMModelOutput(CellModelOutput):
    """What the encoder returns; cells are in the place of genes: `last_hidden_state` is `(cells, hidden)`,
    `cell_embedding` `(cells, cell_embedding_size)`, `gene_embeddings` `(genes, hidden)`.

    Args:
        latent_loss (`torch.FloatTensor`, *optional*):
            Scalar, the loss of the latent variable.
    """

    latent_loss: torch.FloatTensor | None = None


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


class CellPLMEmbeddings(nn.Module):
    """From the counts of a cell to its first hidden state."""

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        self.config = config
        self.genes = nn.Embedding(config.vocab_size, config.hidden_size)
        self.linear = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.norm = make_norm(config.norm, config.hidden_size)

    def sum_of_genes(self, gene_embeddings: Tensor, expression_values: Tensor) -> Tensor:
        """`(cells, hidden)`; the product with sparse values is in single precision, and has no other."""
        is_sparse = expression_values.layout != torch.strided
        weights = expression_values.float() if is_sparse else expression_values
        if self.config.input_encoding != "zscored":
            weights = torch.log1p(weights)
        if not is_sparse:
            return weights.to(gene_embeddings.dtype) @ gene_embeddings
        return torch.sparse.mm(weights, gene_embeddings.float()).to(gene_embeddings.dtype)

    def forward(self, summed: Tensor) -> Tensor:
        return self.norm(self.dropout(F.relu(self.linear(summed))))


class CellPLMPreTrainedModel(SclmPreTrainedModel):
    """Weights as torch draws them; the gene table is drawn small."""

    config_class = CellPLMConfig
    _no_split_modules = [layer.__name__ for layer in ENCODERS.values()]
    # quantisers leave it in float: a classifier's starts random, a mixture's takes the largest of close numbers
    _keep_in_fp32_modules = [r"(.*\.)?latent"]
    supports_gradient_checkpointing = True
    _supports_sdpa = False
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = False
    _can_record_outputs = {"hidden_states": [CellLayer, MLPLayer]}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PerformerFeatures):
            init.copy_(module.projection, orthogonal_random_features(*module.projection.shape))
        elif isinstance(module, WarmUp):
            init.zeros_(module.steps)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=_GENE_SCALE if module.num_embeddings == self.config.vocab_size else 1.0)
        elif isinstance(module, (nn.Linear, GeneRows, SpectralLinear)):
            draw_linear(module)
            if isinstance(module, SpectralLinear):
                init.ones_(module.sigma)
                init.ones_(module.spectral_norm)
                init.copy_(module.u, F.normalize(torch.randn_like(module.u), dim=0))
        elif isinstance(module, nn.PReLU):
            init.constant_(module.weight, 0.25)
        elif isinstance(module, (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)):
            init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)


@auto_docstring(custom_intro="The bare CellPLM: the cells of a sample in, one embedding per cell out.")
class CellPLMModel(CellPLMPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^classifier\.", r"^head\."]

    def __init__(self, config: CellPLMConfig):
        super().__init__(config)
        self.embeddings = CellPLMEmbeddings(config)
        self.layers = make_layers(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.latent = LATENTS[config.latent_type](config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.genes

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.genes = value

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        expression_values: torch.FloatTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        cluster_uniforms: torch.FloatTensor | None = None,
        latent_noise: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellPLMModelOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(genes,)`, *optional*):
            Ids of the genes that the columns are; all in their order by default.
        expression_values (`torch.FloatTensor` of shape `(cells, genes)`):
            Counts of the cells of one sample as they are, or what `config.input_encoding` says; dense, or sparse
            (COO, CSR or CSC).
        attention_mask (`torch.LongTensor` of shape `(cells,)`, *optional*):
            1 at real cells; the others do not exist for them.
        cluster_uniforms (`torch.FloatTensor` of shape `(cells, num_clusters)`, *optional*):
            Recorded draws between 0 and 1 of the mixture's component, in the place of new ones.
        latent_noise (`torch.FloatTensor` of shape `(cells, cell_embedding_size)`, *optional*):
            Recorded standard normal noise of the latent variable, in the place of new noise.
        """
        refuse_keywords(self, kwargs)
        gene_embeddings = self._gene_embeddings(input_ids, expression_values, attention_mask)
        summed = self.embeddings.sum_of_genes(gene_embeddings, expression_values).unsqueeze(0)
        embedded = in_chunks(lambda cells: self.embeddings(cells[0]).unsqueeze(0), summed, self.chunk_size)
        hidden_states = embedded.squeeze(0)
        mask = None if attention_mask is None else attention_mask.unsqueeze(0)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask)
        hidden_states = self.norm(hidden_states)
        cell_embedding, latent_loss = self.latent(hidden_states, cluster_uniforms, latent_noise)
        return CellPLMModelOutput(
            last_hidden_state=hidden_states,
            cell_embedding=cell_embedding,
            gene_embeddings=gene_embeddings,
            latent_loss=latent_loss,
        )

    @property
    def chunk_size(self) -> int | None:
        return self.config.chunk_size

    def _gene_embeddings(
        self, input_ids: Tensor | None, expression_values: Tensor | None, attention_mask: Tensor | None
    ) -> Tensor:
        table = self.embeddings.genes
        if input_ids is None:
            input_ids = torch.arange(table.num_embeddings, device=table.weight.device)
        _check_sample(input_ids, expression_values, attention_mask)
        check_ids(self, input_ids)
        return table(input_ids)


def _check_sample(input_ids: Tensor, expression_values: Tensor | None, attention_mask: Tensor | None) -> None:
    shape = () if expression_values is None else tuple(expression_values.shape)
    if len(shape) != 2 or 0 in shape or tuple(input_ids.shape) != shape[1:]:
        raise ConfigurationError(
            "CellPLM reads the cells of one sample: expected `expression_values` (cells, genes), with at least one of "
            f"each, and `input_ids` (genes,), got {'none' if expression_values is None else shape} and "
            f"{tuple(input_ids.shape)}: take those that `SampleProcessor` makes."
        )
    if attention_mask is not None and tuple(attention_mask.shape) != shape[:1]:
        raise ConfigurationError(
            f"`attention_mask` must be (cells,), {shape[:1]} here; got {tuple(attention_mask.shape)}: cells are the "
            "tokens of CellPLM."
        )
    if attention_mask is not None and can_look(attention_mask) and not attention_mask.any():
        raise ConfigurationError(
            "No cell of the sample is real: `attention_mask` is 0 all over. Leave the sample out."
        )


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


def regression(
    objective: str, prediction: Tensor, labels: Tensor | None, masked: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Prediction and loss of the heads that tell expression.

    Args:
        objective: `"imputation"`, `"denoising"` or `"perturbation"`.
        prediction: `(cells, genes)`.
        labels, masked: as for `CellPLMForExpressionRegression`.
    """
    masked = torch.ones_like(prediction) if masked is None else masked.to(prediction.dtype)
    if objective == "perturbation":
        prediction = prediction * masked
    if labels is None:
        return prediction, None
    check_targets(labels, prediction)
    known, labels = labels != IGNORE, labels.float()
    if objective == "denoising":
        # a cell without counts: 0 / 0
        total = labels.sum(1, keepdim=True).clamp(min=torch.finfo(labels.dtype).tiny)
        labels = torch.log1p(labels / total * _TARGET_SUM)
        error = (prediction - labels) ** 2
        return prediction, mean_over_targets(error * masked + error, known)
    labels = labels * masked if objective == "perturbation" else labels
    return prediction, mean_over_targets((prediction - labels) ** 2, known)


__all__ = [
    "CellPLMForExpressionRegression",
    "CellPLMForImputation",
    "CellPLMForMaskedExpression",
    "CellPLMForSampleClassification",
    "CellPLMForSequenceClassification",
    "CellPLMModel",
    "CellPLMPreTrainedModel",
]
