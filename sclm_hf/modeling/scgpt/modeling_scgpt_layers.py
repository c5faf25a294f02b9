"""Embeddings and layers of scGPT's encoder (Cui et al., Nature Methods 2024, doi:10.1038/s41592-024-02201-0)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.attention import eager_attention_forward
from sclm_hf.modeling.common.initialization import attention_projection

from .configuration_scgpt import ScGPTConfig

DOMAIN_NORM_EPS = 6.1e-5
DOMAIN_NORM_MOMENTUM = 0.1


class ScGPTContinuousValues(nn.Module):
    """Embeds a number by an MLP; numbers above `max_value` are cut to it."""

    def __init__(self, config: ScGPTConfig):
        super().__init__()
        self.max_value = config.max_value
        self.linear1 = nn.Linear(1, config.hidden_size)
        self.linear2 = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, values: Tensor) -> Tensor:
        # quantised weights have a type that nothing is computed in
        values = values.unsqueeze(-1).clamp(max=self.max_value).to(self.norm.weight.dtype)
        return self.dropout(self.norm(self.linear2(F.relu(self.linear1(values)))))


class ScGPTNormedEmbedding(nn.Module):
    """An embedding table followed by a LayerNorm."""

    def __init__(self, num_embeddings: int, config: ScGPTConfig, padding_idx: int | None = None):
        super().__init__()
        self.embedding = nn.Embedding(num_embeddings, config.hidden_size, padding_idx=padding_idx)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        return self.norm(self.embedding(ids.long()))


class ScGPTGeneEmbedding(nn.Embedding):
    """The gene table, drawn uniformly, padding included."""


class ScGPTEmbeddings(nn.Module):
    """Gene embeddings, value embeddings and the flag of genes to generate."""

    def __init__(self, config: ScGPTConfig):
        super().__init__()
        self.value_style = config.value_style
        self.genes = ScGPTGeneEmbedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.gene_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if config.value_style == "continuous":
            self.values = ScGPTContinuousValues(config)
        elif config.value_style == "category":
            self.values = ScGPTNormedEmbedding(config.num_value_embeddings, config, padding_idx=int(config.pad_value))
        self.flags = nn.Embedding(2, config.hidden_size) if config.use_flag_embedding else None

    def embed_genes(self, input_ids: Tensor | None, inputs_embeds: Tensor | None = None) -> Tensor:
        return self.gene_norm(self.genes(input_ids) if inputs_embeds is None else inputs_embeds)

    def add_values(self, gene_embeddings: Tensor, expression_values: Tensor | None) -> Tensor:
        if expression_values is None:
            return gene_embeddings
        if self.value_style == "scaling":
            return gene_embeddings * expression_values.unsqueeze(-1).to(gene_embeddings.dtype)
        return gene_embeddings + self.values(expression_values).to(gene_embeddings.dtype)

    def touch_flags(self, hidden_states: Tensor) -> Tensor:
        """The same values, in which flags that could learn have a part, as training in several processes expects."""
        if self.flags is None or not self.training or not self.flags.weight.requires_grad:
            return hidden_states
        return hidden_states + 0 * self.flags.weight.sum()

    def add_generation_flag(self, gene_embeddings: Tensor) -> Tensor:
        if self.flags is None:
            raise ConfigurationError(
                "`generation_ids` need the flag embedding of generative pre-training, and this checkpoint has none "
                "(`config.use_flag_embedding=False`): use masked values instead, or a checkpoint that has it."
            )
        return gene_embeddings + self.flags.weight[1]


class ScGPTDomainNorm(nn.Module):
    """Batch normalisation with running statistics of its own for every batch label, and no affine part."""

    def __init__(self, num_domains: int, config: ScGPTConfig):
        super().__init__()
        self.config = config
        self.register_buffer("running_mean", torch.zeros(num_domains, config.hidden_size))
        self.register_buffer("running_var", torch.ones(num_domains, config.hidden_size))
        self.register_buffer("num_batches_tracked", torch.zeros(num_domains, dtype=torch.long))

    def forward(self, hidden_states: Tensor, batch_labels: Tensor) -> Tensor:
        domain = batch_labels[:1].long()
        if self.training:
            variance, mean = torch.var_mean(hidden_states.float(), dim=(0, 1), correction=0)
            self._track(domain, mean.detach(), variance.detach(), hidden_states.shape[0] * hidden_states.shape[1])
        else:
            rows = batch_labels.long() if self.config.dsbn_batch_domain == "cell" else domain
            mean, variance = self.running_mean[rows].unsqueeze(1), self.running_var[rows].unsqueeze(1)
        normalized = (hidden_states.float() - mean) * torch.rsqrt(variance + DOMAIN_NORM_EPS)
        return normalized.to(hidden_states.dtype)

    @torch.no_grad()
    def _track(self, domain: Tensor, mean: Tensor, variance: Tensor, count: int) -> None:
        unbiased = variance * (count / max(count - 1, 1))
        for running, now in ((self.running_mean, mean), (self.running_var, unbiased)):
            running[domain] = torch.lerp(running[domain].float(), now[None], DOMAIN_NORM_MOMENTUM).to(running.dtype)
        self.num_batches_tracked[domain] += 1


class ScGPTBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over cells and positions, padding included."""

    def __init__(self, config: ScGPTConfig):
        super().__init__(config.hidden_size, eps=DOMAIN_NORM_EPS, momentum=DOMAIN_NORM_MOMENTUM)

    def forward(self, hidden_states: Tensor, batch_labels: Tensor) -> Tensor:
        return super().forward(hidden_states.transpose(1, 2)).transpose(1, 2)


class ScGPTAttention(nn.Module):
    """Multi-head self-attention; the last `num_generated` positions may skip the output projection.

    With `num_queries` only that many positions, the first, look at all others.
    """

    def __init__(self, config: ScGPTConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = attention_projection(config.hidden_size, fused=True)
        self.k_proj = attention_projection(config.hidden_size, fused=True)
        self.v_proj = attention_projection(config.hidden_size, fused=True)
        self.o_proj = attention_projection(config.hidden_size, fused=False)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        num_generated: int = 0,
        num_queries: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[Tensor, Tensor | None]:
        query = self.heads(self.q_proj(hidden_states[:, :num_queries])).transpose(1, 2)
        key = self.heads(self.k_proj(hidden_states)).transpose(1, 2)
        value = self.heads(self.v_proj(hidden_states)).transpose(1, 2)
        if num_queries is not None and attention_mask is not None:
            attention_mask = attention_mask[:, :, :num_queries]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.hidden_dropout_prob if self.training else 0.0
        context, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        context = context.flatten(2).contiguous()
        if num_generated == 0 or not self.config.generation_skips_output_projection:
            return self.o_proj(context), weights
        known, generated = context[:, :-num_generated], context[:, -num_generated:]
        return torch.cat([self.o_proj(known), generated], dim=1), weights

    def heads(self, projected: Tensor) -> Tensor:
        """`(…, heads, head_dim)` of `(…, hidden)`."""
        return projected.unflatten(-1, (-1, self.head_dim))


class ScGPTLayer(GradientCheckpointingLayer):
    """One encoder layer: attention and a ReLU feed-forward part, normalised after (or, as a quirk, before) each."""

    def __init__(self, config: ScGPTConfig, layer_idx: int):
        super().__init__()
        self.norm_style = config.norm_style
        self.self_attn = ScGPTAttention(config, layer_idx)
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def feed_forward(self, hidden_states: Tensor) -> Tensor:
        return self.dropout(self.linear2(self.dropout(F.relu(self.linear1(hidden_states)))))

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        num_generated: int = 0,
        num_queries: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Tensor:
        hidden_states = self.before_attention(hidden_states)
        attended, _ = self.self_attn(hidden_states, attention_mask, num_generated, num_queries, **kwargs)
        return self.after_attention(hidden_states[:, :num_queries], attended)

    def before_attention(self, hidden_states: Tensor) -> Tensor:
        """What attention reads, and what its result is added to."""
        return self.norm1(hidden_states) if self.norm_style == "pre" else hidden_states

    def after_attention(self, hidden_states: Tensor, attended: Tensor) -> Tensor:
        """The output of the layer."""
        hidden_states = hidden_states + self.dropout(attended)
        if self.norm_style == "pre":
            hidden_states = self.norm2(hidden_states)
            return hidden_states + self.feed_forward(hidden_states)
        hidden_states = self.norm1(hidden_states)
        return self.norm2(hidden_states + self.feed_forward(hidden_states))
