"""transCluster: an encoder and decoder over the discretised discriminant scores of a cell, which name its type.

Song, Dai, Wang, Wang, Zhang, Zhang, Jiao. TransCluster: A Cell-Type Identification Method for single-cell RNA-Seq
data using deep learning based on transformer. Frontiers in Genetics 13, 1038919 (2022). doi:10.3389/fgene.2022.1038919
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import auto_docstring, can_return_tuple

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.base import PlainPreTrainedModel
from sclm_hf.modeling.common.inputs import check_cells
from sclm_hf.modeling.common.losses import classification_loss
from sclm_hf.modeling.common.outputs import CellClassifierOutput, CellModelOutput
from sclm_hf.modeling.common.patch_encoder import sinusoidal_positions

from .configuration_transcluster import TransClusterConfig

_HIDDEN = -1e9


class TransClusterDropout(nn.Module):
    """Dropout that may stay on when cells are named."""

    def __init__(self, config: TransClusterConfig):
        super().__init__()
        self.probability = config.hidden_dropout_prob
        self.always = config.dropout_at_prediction

    def forward(self, values: Tensor) -> Tensor:
        return F.dropout(values, self.probability, training=self.training or self.always)


class TransClusterAttention(nn.Module):
    """Attention of tokens to those of `source`."""

    def __init__(self, config: TransClusterConfig):
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(size, size) for _ in range(4))

    def forward(self, hidden_states: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """Tokens are (batch, tokens, hidden); `mask`, which broadcasts to (batch, 1, tokens, tokens), is added."""
        queries, keys, values = (
            projection(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, tokens in ((self.q_proj, hidden_states), (self.k_proj, source), (self.v_proj, source))
        )
        context = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.o_proj(context.transpose(1, 2).flatten(2))


class TransClusterLayer(nn.Module):
    """Attention among tokens, in the decoder also to the encoder's, and a feed-forward part; each then normalised."""

    def __init__(self, config: TransClusterConfig, *, is_decoder: bool):
        super().__init__()
        size = config.hidden_size
        self.self_attention = TransClusterAttention(config)
        self.cross_attention = TransClusterAttention(config) if is_decoder else None
        self.linear1 = nn.Linear(size, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, size)
        self.norm1, self.norm2 = (nn.LayerNorm(size, eps=config.layer_norm_eps) for _ in range(2))
        self.cross_norm = nn.LayerNorm(size, eps=config.layer_norm_eps) if is_decoder else None
        self.dropout = TransClusterDropout(config)

    def forward(self, tokens: Tensor, mask: Tensor, source: Tensor | None = None, padding: Tensor | None = None):
        tokens = self.norm1(tokens + self.dropout(self.self_attention(tokens, tokens, mask)))
        if self.cross_attention is not None:
            tokens = self.cross_norm(tokens + self.dropout(self.cross_attention(tokens, source, padding)))
        return self.norm2(tokens + self.dropout(self.linear2(F.relu(self.linear1(tokens)))))


class TransClusterStack(nn.Module):
    """Ids with their positions through layers."""

    def __init__(self, config: TransClusterConfig, *, is_decoder: bool):
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = [TransClusterLayer(config, is_decoder=is_decoder) for _ in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(layers)
        self.dropout = TransClusterDropout(config)

    def forward(self, input_ids: Tensor, *masks_and_source: Tensor) -> Tensor:
        """(batch, tokens) -> (batch, tokens, hidden)."""
        tokens = self.embeddings(input_ids)
        tokens = self.dropout(tokens + sinusoidal_positions(tokens.shape[1], tokens.shape[2], tokens))
        for layer in self.layers:
            tokens = layer(tokens, *masks_and_source)
        return tokens


@auto_docstring
class TransClusterPreTrainedModel(PlainPreTrainedModel):
    config: TransClusterConfig
    _no_split_modules = ["TransClusterLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            draw = init.xavier_normal_ if isinstance(module, nn.Conv1d) else init.xavier_uniform_
            draw(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.uniform_(module.weight, -0.05, 0.05)
        else:
            super()._init_weights(module)


@auto_docstring(custom_intro="Encoder, decoder and convolution: ids of scores in, one vector per cell out.")
class TransClusterModel(TransClusterPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    def __init__(self, config: TransClusterConfig):
        super().__init__(config)
        self.encoder = TransClusterStack(config, is_decoder=False)
        self.decoder = TransClusterStack(config, is_decoder=True)
        self.output = nn.Linear(config.hidden_size, config.vocab_size)
        self.spatial_dropout = nn.Dropout1d(config.spatial_dropout_prob)
        self.conv = nn.Conv1d(config.vocab_size, config.conv_filters, config.conv_kernel, padding="same")
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.encoder.embeddings

    @can_return_tuple
    @auto_docstring
    def forward(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> CellModelOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, num_components)`):
            Ids of the discriminant scores of cells; 0 is padding.
        attention_mask (`torch.Tensor` of shape `(batch, num_components)`, *optional*):
            1 for scores that count; by default all that are not padding.
        """
        check_cells(self, input_ids=input_ids, attention_mask=attention_mask)
        length = input_ids.shape[1]
        if self.config.num_components not in (None, length):
            raise ConfigurationError(
                f"`input_ids` must be (cells, {self.config.num_components} scores), as the processor makes them; got "
                f"{tuple(input_ids.shape)}."
            )
        is_score = (input_ids != 0) if attention_mask is None else attention_mask.bool()
        padding = _added(is_score[:, None, None, :], self.dtype)
        is_past = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).tril()
        past = _added(is_score[:, None, None, :] & is_past, self.dtype)
        encoded = self.encoder(input_ids, padding)
        scores = self.output(self.decoder(input_ids, past, encoded, padding))
        channels = self.spatial_dropout(scores.transpose(1, 2))
        embedding = F.relu(self.conv(channels)).amax(dim=2)
        return CellModelOutput(last_hidden_state=scores, cell_embedding=embedding)


@auto_docstring(custom_intro="transCluster with its classifier of cells.")
class TransClusterForSequenceClassification(TransClusterPreTrainedModel):
    accepts_loss_kwargs = False

    def __init__(self, config: TransClusterConfig):
        super().__init__(config)
        self.model = TransClusterModel(config)
        self.classifier = nn.Linear(config.conv_filters, config.num_labels)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs,
    ) -> CellClassifierOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, num_components)`):
            Ids of the discriminant scores of cells; 0 is padding.
        attention_mask (`torch.Tensor` of shape `(batch, num_components)`, *optional*):
            1 for scores that count; by default all that are not padding.
        labels (`torch.Tensor` of shape `(batch,)`, *optional*):
            Numbers of the types.
        """
        encoded = self.model(input_ids, attention_mask, **kwargs)
        logits = self.classifier(encoded.cell_embedding)
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config) + self.penalty()
        return CellClassifierOutput(loss=loss, logits=logits, cell_embedding=encoded.cell_embedding)

    def penalty(self) -> Tensor:
        """What the loss adds for large weights of convolution and classifier, a scalar."""
        of_conv = self.config.conv_penalty * self.model.conv.weight.square().sum()
        return of_conv + self.config.classifier_penalty * self.classifier.weight.square().sum()


def _added(may_look: Tensor, dtype: torch.dtype) -> Tensor:
    """What attention adds to scores so that only some are looked at; all alike where none may be, as published."""
    return torch.where(may_look, 0.0, _HIDDEN).to(dtype)


__all__ = ["TransClusterForSequenceClassification", "TransClusterModel", "TransClusterPreTrainedModel"]
