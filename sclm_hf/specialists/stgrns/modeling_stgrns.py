"""STGRNS: a transformer over windows of cells that tells whether one gene regulates another.

Xu, Zhang, Liu, Zhang. STGRNS: an interpretable transformer-based method for inferring gene regulatory
networks from single-cell transcriptomic data. Bioinformatics 39, btad165 (2023). doi:10.1093/bioinformatics/btad165
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput, auto_docstring, can_return_tuple

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.losses import classification_loss
from sclm_hf.modeling.common.patch_encoder import PatchEncoder, PatchPreTrainedModel

from .configuration_stgrns import STGRNSConfig


@dataclass
class PairModelOutput(ModelOutput):
    """What the encoder says of pairs of genes.

    Args:
        last_hidden_state (`torch.FloatTensor`):
            `(pairs, windows, hidden)` one vector per window of cells.
        pair_embedding (`torch.FloatTensor`):
            `(pairs, hidden)` their mean.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pair_embedding: torch.FloatTensor | None = None


@dataclass
class PairClassifierOutput(ModelOutput):
    """What the classifier says of pairs of genes.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Scalar, when labels were given.
        logits (`torch.FloatTensor`):
            `(pairs, num_labels)`; the second is that of an edge.
        pair_embedding (`torch.FloatTensor`):
            `(pairs, hidden)`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    pair_embedding: torch.FloatTensor | None = None


@auto_docstring
class STGRNSPreTrainedModel(PatchPreTrainedModel):
    config: STGRNSConfig
    main_input_name = "regulator_values"


@auto_docstring(custom_intro="The encoder: two genes over cells in, one vector per window of cells and per pair out.")
class STGRNSModel(STGRNSPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^dense\.", r"^classifier\."]

    def __init__(self, config: STGRNSConfig):
        super().__init__(config)
        self.encoder = PatchEncoder(config)
        self.post_init()

    def windows(self, regulator_values: Tensor, target_values: Tensor) -> Tensor:
        """Cut the cells into windows; those left over at the end are not read.

        Args:
            regulator_values, target_values: (pairs, cells) logarithms of expression.

        Returns:
            (pairs, windows, 2 · window_size), the regulator first.
        """
        size = self.config.window_size
        n_windows = regulator_values.shape[1] // size
        cut = [
            values[:, : n_windows * size].unflatten(1, (n_windows, size))
            for values in (regulator_values, target_values)
        ]
        return torch.cat(cut, dim=2)

    @can_return_tuple
    @auto_docstring
    def forward(
        self, regulator_values: torch.FloatTensor, target_values: torch.FloatTensor, **kwargs
    ) -> PairModelOutput:
        r"""
        regulator_values (`torch.FloatTensor` of shape `(pairs, cells)`):
            Logarithms of the regulator's expression in cells, in their order.
        target_values (`torch.FloatTensor` of shape `(pairs, cells)`):
            Those of the target, in the same cells.
        """
        self._check(regulator_values, target_values)
        windows = self.windows(regulator_values.to(self.dtype), target_values.to(self.dtype))
        hidden_states = self.encoder(windows)
        return PairModelOutput(last_hidden_state=hidden_states, pair_embedding=hidden_states.mean(dim=1))

    def _check(self, regulator_values: Tensor, target_values: Tensor) -> None:
        shape, other = tuple(regulator_values.shape), tuple(target_values.shape)
        if len(shape) != 2 or shape != other:
            raise ConfigurationError(
                f"`regulator_values` and `target_values` must both be (pairs, cells), got {shape} and {other}."
            )
        if shape[1] < self.config.window_size:
            raise ConfigurationError(
                f"{shape[1]:,} cells do not fill one window of {self.config.window_size:,}: give more cells, or "
                "choose a smaller `window_size`."
            )


@auto_docstring(custom_intro="STGRNS with its classifier of ordered pairs of genes.")
class STGRNSForPairClassification(STGRNSPreTrainedModel):
    def __init__(self, config: STGRNSConfig):
        super().__init__(config)
        self.model = STGRNSModel(config)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        regulator_values: torch.FloatTensor,
        target_values: torch.FloatTensor,
        labels: Tensor | None = None,
        **kwargs,
    ) -> PairClassifierOutput:
        r"""
        regulator_values (`torch.FloatTensor` of shape `(pairs, cells)`):
            Logarithms of the regulator's expression in cells, in their order.
        target_values (`torch.FloatTensor` of shape `(pairs, cells)`):
            Those of the target, in the same cells.
        labels (`torch.Tensor` of shape `(pairs,)`, *optional*):
            1 where the first regulates the second, else 0.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(regulator_values, target_values, **kwargs)
        logits = self.classifier(F.relu(self.dense(encoded.pair_embedding)))
        return PairClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config, num_items),
            logits=logits,
            pair_embedding=encoded.pair_embedding,
        )


__all__ = ["STGRNSForPairClassification", "STGRNSModel", "STGRNSPreTrainedModel"]
