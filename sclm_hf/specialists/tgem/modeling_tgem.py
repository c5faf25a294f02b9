"""T-GEM: attention among genes, each of which is a number, for phenotypes of samples and types of cells.

Zhang, Hasib, Chiu, Han, Jin, Flores, Chen, Huang. Transformer for Gene Expression Modeling (T-GEM): An Interpretable
Deep Learning Model for Gene Expression-Based Phenotype Predictions. Cancers 14, 4763 (2022).
doi:10.3390/cancers14194763
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import auto_docstring, can_return_tuple

from sclm_hf.modeling.common.base import PlainPreTrainedModel
from sclm_hf.modeling.common.inputs import check_expression
from sclm_hf.modeling.common.losses import classification_loss
from sclm_hf.modeling.common.outputs import CellClassifierOutput, CellModelOutput

from .configuration_tgem import TGEMConfig
from .modeling_tgem_attention import attend, attention_weights

_ACTIVATIONS = {
    "none": lambda values: values,
    "relu": F.relu,
    "leaky_relu": partial(F.leaky_relu, negative_slope=0.1),
    "gelu": F.gelu,
}


class TGEMNorm(nn.Module):
    """Layer norm over genes whose deviation is that of a sample (n - 1)."""

    def __init__(self, config: TGEMConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.num_genes))
        self.bias = nn.Parameter(torch.zeros(config.num_genes))
        self.eps = config.layer_norm_eps

    def forward(self, values: Tensor) -> Tensor:
        """(batch, genes) in and out."""
        deviation, mean = torch.std_mean(values, dim=-1, keepdim=True)
        return self.weight * (values - mean) / (deviation + self.eps) + self.bias


class TGEMAttention(nn.Module):
    """Attention of every gene to all others, with weights of its own for each gene and head."""

    def __init__(self, config: TGEMConfig):
        super().__init__()
        shape = config.num_attention_heads, config.num_genes, 1
        self.query, self.key, self.value = (nn.Parameter(torch.empty(shape)) for _ in range(3))
        self.head_weight = nn.Parameter(torch.empty(config.num_attention_heads))
        self.mask_self = config.mask_self

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, Tensor | None]:
        """(batch, genes) in and out; and weights (batch, heads, genes, genes) where they are asked for."""
        queries, keys, values = (
            hidden_states.unsqueeze(1) * weight.squeeze(-1) for weight in (self.query, self.key, self.value)
        )
        context = attend(queries, keys, values, mask_self=self.mask_self).to(hidden_states.dtype)
        weights = attention_weights(queries, keys, mask_self=self.mask_self) if output_attentions else None
        return torch.einsum("h,bhg->bg", self.head_weight, context), weights


@auto_docstring
class TGEMPreTrainedModel(PlainPreTrainedModel):
    config: TGEMConfig
    main_input_name = "expression_values"
    _can_compile_fullgraph = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, TGEMAttention):
            for weight in (module.query, module.key, module.value):
                init.xavier_normal_(weight)
            init.constant_(module.head_weight, 0.001)
        elif isinstance(module, TGEMNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)


@auto_docstring(custom_intro="The layers: expression in, one number per gene out, which together stand for the cell.")
class TGEMModel(TGEMPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    def __init__(self, config: TGEMConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([TGEMAttention(config) for _ in range(config.num_hidden_layers)])
        n_norms = 1 if config.share_layer_norm else config.num_hidden_layers
        self.norms = nn.ModuleList([TGEMNorm(config) for _ in range(n_norms)])
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self, expression_values: torch.FloatTensor, output_attentions: bool | None = None, **kwargs
    ) -> CellModelOutput:
        r"""
        expression_values (`torch.FloatTensor` of shape `(batch, num_genes)`):
            Log-normalised expression of the genes of the processor, in its order.
        output_attentions (`bool`, *optional*):
            Whether to return weights of shape `(batch, heads, num_genes, num_genes)`, which take that memory.
        """
        check_expression(expression_values, self.config.num_genes)
        wanted = self.config.output_attentions if output_attentions is None else output_attentions
        hidden_states, attentions = expression_values.to(self.dtype), []
        for number, layer in enumerate(self.layers):
            added, weights = layer(hidden_states, wanted)
            hidden_states = hidden_states + self.norms[number % len(self.norms)](self.dropout(added))
            attentions.append(weights)
        return CellModelOutput(
            last_hidden_state=hidden_states.unsqueeze(-1),
            cell_embedding=hidden_states,
            attentions=tuple(attentions) if wanted else None,
        )


@auto_docstring(custom_intro="T-GEM with its classifier of cells.")
class TGEMForSequenceClassification(TGEMPreTrainedModel):
    def __init__(self, config: TGEMConfig):
        super().__init__(config)
        self.model = TGEMModel(config)
        self.classifier = nn.Linear(config.num_genes, config.num_labels)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        expression_values: torch.FloatTensor,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> CellClassifierOutput:
        r"""
        expression_values (`torch.FloatTensor` of shape `(batch, num_genes)`):
            Log-normalised expression of the genes of the processor, in its order.
        labels (`torch.Tensor` of shape `(batch,)`, *optional*):
            Numbers of the types.
        output_attentions (`bool`, *optional*):
            Whether to return weights of shape `(batch, heads, num_genes, num_genes)`, which take that memory.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(expression_values, output_attentions=output_attentions, **kwargs)
        logits = self.classifier(_ACTIVATIONS[self.config.final_activation](encoded.cell_embedding))
        return CellClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config, num_items),
            logits=logits,
            cell_embedding=encoded.cell_embedding,
            attentions=encoded.attentions,
        )


__all__ = ["TGEMForSequenceClassification", "TGEMModel", "TGEMPreTrainedModel"]
