"""The encoder of CellPLM: from the counts of the cells of a sample to their latent variables."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.attention.performer import PerformerFeatures, orthogonal_random_features
from sclm_hf.modeling.common.base import SclmPreTrainedModel
from sclm_hf.modeling.common.initialization import draw_linear
from sclm_hf.modeling.common.inputs import can_look, check_ids, refuse_keywords
from sclm_hf.modeling.common.outputs import CellModelOutput

from .configuration_cellplm import CellPLMConfig
from .modeling_cellplm_layers import (
    CellLayer,
    GaussianLatent,
    GeneRows,
    LinearLatent,
    MixtureLatent,
    WarmUp,
    in_chunks,
    make_norm,
)
from .modeling_cellplm_variants import (
    CosformerLayer,
    MLPLayer,
    PerformerLayer,
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

_GENE_SCALE = 0.005


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
