"""PROTRAIT: from the DNA sequence of a peak, in which cells it is open; the last weights are vectors of the cells.

Wang, Zhang, Yu, Zhang, Liu, Zou. A Unified Deep Learning Framework for Single-Cell ATAC-Seq Analysis Based on ProdDep
Transformer Encoder. International Journal of Molecular Sciences 24, 4784 (2023). doi:10.3390/ijms24054784. Its
attention is that of Zhou et al. (Informer), AAAI 35, 11106-11115 (2021). doi:10.1609/aaai.v35i12.17325
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput, auto_docstring, can_return_tuple

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.base import PlainPreTrainedModel
from sclm_hf.modeling.common.initialization import draw_linear
from sclm_hf.modeling.common.patch_encoder import sinusoidal_positions

from .configuration_protrait import STEM_POOLS, PROTRAITConfig


@dataclass
class PROTRAITOutput(ModelOutput):
    """What PROTRAIT says of peaks.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Scalar, when labels were given: the mean binary cross-entropy over peaks and cells.
        logits (`torch.FloatTensor`):
            `(peaks, num_cells)` of being open.
        peak_embedding (`torch.FloatTensor`):
            `(peaks, bottleneck_size)`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    peak_embedding: torch.FloatTensor | None = None


@lru_cache(maxsize=64)
def keyed_positions(seed: int, layer: int, length: int, n_drawn: int) -> Tensor:
    """(length, n_drawn) positions of keys, drawn with replacement by these numbers alone."""
    drawn = np.random.default_rng([seed, layer, length]).integers(length, size=(length, n_drawn))
    return torch.from_numpy(drawn)


class SparseLayer(GradientCheckpointingLayer):
    """Attention of few positions to all, and a feed-forward part, each added and then normalised.

    Args:
        config: the configuration.
        number: the layer's number.
    """

    def __init__(self, config: PROTRAITConfig, number: int):
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size or 2 * config.hidden_size
        self.config, self.number = config, number
        self.head_dim = size // config.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(size, size) for _ in range(3))
        self.linear1, self.linear2 = nn.Linear(size, inner), nn.Linear(inner, size)
        self.norm1 = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(peaks, positions, hidden) in and out."""
        hidden_states = self.norm1(hidden_states + self.dropout(self._attend(hidden_states)))
        inner = F.gelu(self.linear2(F.gelu(self.linear1(hidden_states))))
        return self.norm2(inner + hidden_states)

    def sampled_keys(self, length: int) -> Tensor:
        """(length, length // sparse_factor) positions of the keys that tell which queries attend."""
        n_drawn = length // self.config.sparse_factor
        if self.config.deterministic_sampling:
            return keyed_positions(self.config.sampling_seed, self.number, length, n_drawn)
        return torch.randint(length, (length, n_drawn))

    def _attend(self, hidden_states: Tensor) -> Tensor:
        shape = hidden_states.shape[:-1]
        query, key, value = (
            projection(hidden_states).view(*shape, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        chosen = self._active_queries(query, key)[..., None].expand(-1, -1, -1, self.head_dim)
        weights = (query.gather(2, chosen) @ key.transpose(2, 3) * self.head_dim**-0.5).softmax(-1)
        # the others get what attention without preference gives
        context = value.mean(dim=2, keepdim=True).expand_as(value).scatter(2, chosen, weights @ value)
        return context.transpose(1, 2).reshape(*shape, -1)

    @torch.no_grad()
    def _active_queries(self, query: Tensor, key: Tensor) -> Tensor:
        """(peaks, heads, chosen) positions whose largest product with sampled keys exceeds their sum most.

        Args:
            query, key: (peaks, heads, positions, head_dim).
        """
        length = query.shape[2]
        sampled = self.sampled_keys(length).to(query.device)
        found = []
        # products with all keys of one head take less memory than copies of the sampled keys
        for one, other in zip(query.unbind(1), key.unbind(1), strict=True):
            products = (one @ other.transpose(1, 2)).gather(2, sampled.expand(len(one), -1, -1))
            found.append(products.amax(2) - products.sum(2) / length)
        return torch.stack(found, dim=1).topk(length // self.config.sparse_factor, dim=2, sorted=False).indices


class Distilling(nn.Module):
    """A convolution that is normalised and pooled.

    Args:
        n_in: width of the input.
        n_out: width of the output.
        pool_size: how many positions become one.
        activation: what follows the norm.
    """

    def __init__(self, n_in: int, n_out: int, pool_size: int, activation: nn.Module):
        super().__init__()
        self.conv = nn.Conv1d(n_in, n_out, 5, padding=2)
        self.norm = nn.BatchNorm1d(n_out)
        self.activation = activation
        self.pool = nn.MaxPool1d(pool_size)

    def forward(self, positions: Tensor) -> Tensor:
        """(peaks, n_in, positions) to (peaks, n_out, positions // pool_size)."""
        return self.pool(self.activation(self.norm(self.conv(positions))))


class Bottleneck(nn.Module):
    """The positions of a peak as one vector."""

    def __init__(self, config: PROTRAITConfig):
        super().__init__()
        half = config.hidden_size // 2
        self.conv = nn.Conv1d(config.hidden_size, half, 1)
        self.conv_norm = nn.BatchNorm1d(half)
        self.dense = nn.Linear(config.flattened_size, config.bottleneck_size)
        self.dense_norm = nn.LayerNorm(config.bottleneck_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.bottleneck_dropout_prob)

    def forward(self, positions: Tensor) -> Tensor:
        """(peaks, hidden, positions) to (peaks, bottleneck_size)."""
        narrow = F.max_pool1d(F.elu(self.conv_norm(self.conv(positions))), 2)
        return F.elu(self.dropout(self.dense_norm(self.dense(narrow.flatten(1)))))


class BaseEmbedding(nn.Module):
    """Bases as vectors with their positions; long sequences are shortened."""

    def __init__(self, config: PROTRAITConfig):
        super().__init__()
        size = config.hidden_size
        if config.has_stem:
            step = (size - 4) // len(STEM_POOLS)
            self.stem = nn.ModuleList(
                Distilling(4 + place * step, 4 + (place + 1) * step, pool, nn.GELU())
                for place, pool in enumerate(STEM_POOLS)
            )
        else:
            self.conv = nn.Conv1d(4, size, 3, padding=1)
        self.has_stem = config.has_stem

    def forward(self, bases: Tensor) -> Tensor:
        """(peaks, 4, bases) to (peaks, positions, hidden)."""
        if self.has_stem:
            for layer in self.stem:
                bases = layer(bases)
        else:
            bases = F.gelu(self.conv(bases))
        hidden_states = bases.transpose(1, 2)
        return hidden_states + sinusoidal_positions(*hidden_states.shape[1:], hidden_states)


@auto_docstring
class PROTRAITPreTrainedModel(PlainPreTrainedModel):
    config: PROTRAITConfig
    main_input_name = "input_ids"
    # its loss is a mean over a batch
    accepts_loss_kwargs = False
    _no_split_modules = ["SparseLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            draw_linear(module)
        elif isinstance(module, nn.Conv1d):
            bound = (module.in_channels * module.kernel_size[0]) ** -0.5
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        else:
            super()._init_weights(module)


@auto_docstring(custom_intro="PROTRAIT: DNA of peaks in, in which cells they are open out.")
class PROTRAITModel(PROTRAITPreTrainedModel):
    def __init__(self, config: PROTRAITConfig):
        super().__init__(config)
        self.embedding = BaseEmbedding(config)
        self.layers = nn.ModuleList(SparseLayer(config, number) for number in range(config.num_hidden_layers))
        size = config.hidden_size
        self.pools = nn.ModuleList(Distilling(size, size, pool, nn.ELU()) for pool in config.pool_sizes)
        self.bottleneck = Bottleneck(config)
        self.cells = nn.Linear(config.bottleneck_size, config.num_cells)
        self.post_init()

    def cell_embeddings(self) -> Tensor:
        """(num_cells, bottleneck_size) vectors of the cells, in the order of the processor."""
        return self.cells.weight.detach()

    @can_return_tuple
    @auto_docstring
    def forward(self, input_ids: torch.LongTensor, labels: Tensor | None = None, **kwargs) -> PROTRAITOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(peaks, sequence_length)`):
            Bases: 0 to 3 are A, C, G and T, and 4 is one that is not known.
        labels (`torch.Tensor` of shape `(peaks, num_cells)`, *optional*):
            1 where a peak is open, else 0.
        """
        hidden_states = self.embedding(self.one_hot(input_ids))
        for layer, pool in zip(self.layers, self.pools, strict=True):
            hidden_states = pool(layer(hidden_states).transpose(1, 2)).transpose(1, 2)
        embedded = self.bottleneck(hidden_states.transpose(1, 2))
        logits = self.cells(embedded)
        loss = None
        if labels is not None:
            loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return PROTRAITOutput(loss=loss, logits=logits, peak_embedding=embedded)

    def one_hot(self, input_ids: Tensor) -> Tensor:
        """(peaks, 4, bases) of A, C, G and T; a base that is not known is 0 in all."""
        if input_ids.ndim != 2 or input_ids.shape[1] != self.config.sequence_length:
            raise ConfigurationError(
                f"`input_ids` must be (peaks, {self.config.sequence_length:,}) bases, got {tuple(input_ids.shape)}."
            )
        bases = torch.arange(4, device=input_ids.device)[:, None]
        return (input_ids[:, None] == bases).to(self.dtype)


__all__ = ["PROTRAITModel", "PROTRAITPreTrainedModel"]
