"""A transformer over a set of control cells, which predicts the same cells after a perturbation.

Every cell is one token: the sum of an embedding of its expression and an embedding of the perturbation. Cells attend
to all others of the set, without positions, and what comes out is the change of each cell. It is trained on the energy
distance between predicted cells and cells that had the perturbation, which are other cells. The idea is that of STATE
(Adduri et al., bioRxiv 2025.06.26.661135); the perturbation is told by features of its genes, so that it may be one
that was never seen, or a combination.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput, auto_docstring, can_return_tuple

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.attention import eager_attention_forward
from sclm_hf.modeling.common.base import SclmPreTrainedModel

from .configuration_cell_set import CellSetConfig


@dataclass
@auto_docstring(custom_intro="Predicted cells.")
class CellSetOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor`, *optional*):
        Energy distance to real perturbed cells, mean over the sets; only with `labels`.
    expression_prediction (`torch.FloatTensor` of shape `(sets, cells, genes)`):
        Expression after the perturbation, 0 or more.
    """

    loss: Tensor | None = None
    expression_prediction: Tensor | None = None


class CellSetLayer(GradientCheckpointingLayer):
    """Attention of every cell to all of its set, and a feed-forward part, normalised before each."""

    def __init__(self, config: CellSetConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = hidden_states + self.dropout(self._attend(self.norm1(hidden_states)))
        return hidden_states + self.dropout(self.linear2(F.gelu(self.linear1(self.norm2(hidden_states)))))

    def _attend(self, hidden_states: Tensor) -> Tensor:
        shape = hidden_states.shape[:-1]
        projections = (self.q_proj, self.k_proj, self.v_proj)
        heads = [one(hidden_states).view(*shape, -1, self.head_dim).transpose(1, 2) for one in projections]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        context, _ = attend(self, *heads, None, dropout=0.0, scaling=self.scaling)
        return self.o_proj(context.reshape(*shape, -1))


@auto_docstring(custom_intro="A transformer over sets of control cells, which predicts them after a perturbation.")
class CellSetForPerturbation(SclmPreTrainedModel):
    config: CellSetConfig
    main_input_name = "expression_values"
    # losses are means over sets, not over labels
    accepts_loss_kwargs = False
    _no_split_modules = ["CellSetLayer"]

    def __init__(self, config: CellSetConfig):
        super().__init__(config)
        n_genes, n_perturbed = len(config.genes or ()), len(config.perturbed_genes or ())
        self.register_buffer("gene_features", torch.zeros(n_perturbed, config.feature_size))
        self.cells = self._stack(n_genes, config)
        self.perturbation = self._stack(config.feature_size, config)
        self.layers = nn.ModuleList([CellSetLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, n_genes)
        self.post_init()

    @staticmethod
    def _stack(size: int, config: CellSetConfig) -> nn.Sequential:
        width = config.hidden_size
        return nn.Sequential(nn.Linear(size, width), nn.GELU(), nn.Linear(width, width))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            init.zeros_(module.gene_features)
        elif isinstance(module, nn.Linear):
            # an untrained model changes no cell
            deviation = 0.0 if module is self.decoder else self.config.initializer_range
            init.normal_(module.weight, std=deviation)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        expression_values: torch.FloatTensor,
        perturbation_features: torch.FloatTensor,
        attention_mask: torch.LongTensor | None = None,
        labels: torch.FloatTensor | None = None,
        **kwargs,
    ) -> CellSetOutput:
        r"""
        expression_values (`torch.FloatTensor` of shape `(sets, cells, genes)`):
            Log-normalised expression of control cells.
        perturbation_features (`torch.FloatTensor` of shape `(sets, feature_size)`):
            What is done to the cells of each set: the sum of the features of the genes, see `features_of`.
        attention_mask (`torch.LongTensor` of shape `(sets, cells)`, *optional*):
            All 1: sets are not padded.
        labels (`torch.FloatTensor` of shape `(sets, perturbed cells, genes)`, *optional*):
            Cells that had the perturbation, not the same ones.
        """
        if expression_values.dim() != 3 or expression_values.shape[-1] != self.decoder.out_features:
            raise ConfigurationError(
                f"`expression_values` must be (sets, cells, {self.decoder.out_features}), the genes of "
                f"`config.genes`; got {tuple(expression_values.shape)}."
            )
        hidden = self.cells(expression_values) + self.perturbation(perturbation_features).unsqueeze(1)
        for layer in self.layers:
            hidden = layer(hidden)
        prediction = F.relu(expression_values + self.decoder(self.norm(hidden)))
        loss = None if labels is None else self._loss(prediction.float(), labels.float())
        return CellSetOutput(loss=loss, expression_prediction=prediction)

    def features_of(self, parts: tuple[str, ...]) -> Tensor:
        """(feature_size,) features of genes that are perturbed together.

        Raises:
            ConfigurationError: the model knows no features of one.
        """
        known = {name: row for row, name in enumerate(self.config.perturbed_genes or ())}
        if unknown := [name for name in parts if name not in known]:
            raise ConfigurationError(f"The model has no features of {', '.join(unknown)}.")
        return self.gene_features[[known[name] for name in parts]].sum(dim=0)

    def _loss(self, prediction: Tensor, real: Tensor) -> Tensor:
        between = torch.cdist(prediction, real).mean(dim=(1, 2))
        within = (_mean_distance(prediction) + _mean_distance(real)) / 2
        means = (prediction.mean(dim=1) - real.mean(dim=1)).square().sum(dim=1)
        return (2 * (between - within) + self.config.mean_weight * means).mean()


def _mean_distance(cells: Tensor) -> Tensor:
    """(sets,) mean distance between two different cells of a set."""
    n = cells.shape[1]
    return torch.cdist(cells, cells).sum(dim=(1, 2)) / (n * max(n - 1, 1))


__all__ = ["CellSetForPerturbation"]
