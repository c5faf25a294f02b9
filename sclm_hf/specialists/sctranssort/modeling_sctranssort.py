"""scTransSort: a vision transformer over the genes of a cell, laid out as an image, that names its type.

Jiao, Wang, Dai, Li, Wang, Song. scTransSort: Transformers for Intelligent Annotation of Cell Types by Gene Embeddings.
Biomolecules 13, 611 (2023). doi:10.3390/biom13040611
The encoder is the vision transformer of Dosovitskiy et al., ICLR 2021, arXiv:2010.11929.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import auto_docstring, can_return_tuple

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.attention import eager_attention_forward
from sclm_hf.modeling.common.base import SclmPreTrainedModel
from sclm_hf.modeling.common.inputs import check_expression
from sclm_hf.modeling.common.losses import classification_loss
from sclm_hf.modeling.common.outputs import CellClassifierOutput, CellModelOutput

from .configuration_sctranssort import ScTransSortConfig, side_of


class ScTransSortEmbeddings(nn.Module):
    """Patches of an image as tokens, one for the whole before them, and their positions."""

    def __init__(self, config: ScTransSortConfig):
        super().__init__()
        size = config.hidden_size
        self.projection = nn.Conv2d(config.num_channels, size, config.patch_size, stride=config.patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, size))
        self.positions = nn.Parameter(torch.empty(1, config.num_patches + 1, size))

    def forward(self, image: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, 1 + patches, hidden)."""
        tokens = self.projection(image).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions


class ScTransSortLayer(GradientCheckpointingLayer):
    """Attention of every token to all, and a feed-forward part; what each reads is normalised."""

    def __init__(self, config: ScTransSortConfig):
        super().__init__()
        size = config.hidden_size
        self.config = config
        self.head_dim = size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(size, size) for _ in range(4))
        self.linear1 = nn.Linear(size, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, size)
        self.norm1, self.norm2 = (nn.LayerNorm(size, eps=config.layer_norm_eps) for _ in range(2))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = hidden_states + self.dropout(self._attend(self.norm1(hidden_states)))
        inner = self.dropout(F.gelu(self.linear1(self.norm2(hidden_states))))
        return hidden_states + self.dropout(self.linear2(inner))

    def _attend(self, hidden_states: Tensor) -> Tensor:
        shape = hidden_states.shape[:-1]
        heads = [
            projection(hidden_states).view(*shape, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        ]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.hidden_dropout_prob if self.training else 0.0
        context, _ = attend(self, *heads, None, dropout=dropout, scaling=self.scaling)
        return self.o_proj(context.reshape(*shape, -1))


@auto_docstring
class ScTransSortPreTrainedModel(SclmPreTrainedModel):
    config: ScTransSortConfig
    main_input_name = "expression_values"
    _no_split_modules = ["ScTransSortLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ScTransSortEmbeddings):
            init.zeros_(module.cls_token)
            init.normal_(module.positions, 0.0, 0.02)
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            draw = init.zeros_ if getattr(module, "starts_at_zero", False) else init.xavier_uniform_
            draw(module.weight)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)


@auto_docstring(custom_intro="The encoder: expression in, one vector per patch and per cell out.")
class ScTransSortModel(ScTransSortPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    def __init__(self, config: ScTransSortConfig):
        super().__init__(config)
        self.embeddings = ScTransSortEmbeddings(config)
        self.layers = nn.ModuleList([ScTransSortLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def image(self, expression_values: Tensor) -> Tensor:
        """Lay the genes of cells out row by row, in the middle of an image.

        Args:
            expression_values: (cells, genes).

        Returns:
            (cells, channels, height, width).

        Raises:
            ConfigurationError: there are more genes than the image has place for.
        """
        size, n_genes = self.config.image_size, expression_values.shape[1]
        side = side_of(n_genes)
        if side > size and not self.config.crop_genes:
            raise ConfigurationError(
                f"{n_genes:,} genes make a square of {side} pixels, and the image has {size}: give fewer genes."
            )
        square = F.pad(expression_values, (0, side**2 - n_genes)).view(-1, 1, side, side)
        # a square that is too large is cut, from the same side on
        before = (size - side) // 2 if side <= size else -((side - size) // 2)
        after = size - side - before
        return F.pad(square, (before, after, before, after)).expand(-1, self.config.num_channels, -1, -1)

    @can_return_tuple
    @auto_docstring
    def forward(self, expression_values: torch.FloatTensor, **kwargs) -> CellModelOutput:
        r"""
        expression_values (`torch.FloatTensor` of shape `(batch, genes)`):
            Log-normalised expression of the genes of the processor, in its order.
        """
        check_expression(expression_values, self.config.num_genes)
        hidden_states = self.embeddings(self.image(expression_values.to(self.dtype)))
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        hidden_states = self.norm(hidden_states)
        return CellModelOutput(last_hidden_state=hidden_states, cell_embedding=hidden_states[:, 0])


@auto_docstring(custom_intro="scTransSort with its classifier of cells.")
class ScTransSortForSequenceClassification(ScTransSortPreTrainedModel):
    def __init__(self, config: ScTransSortConfig):
        super().__init__(config)
        self.model = ScTransSortModel(config)
        n_pixels = config.num_channels * config.image_size**2 if config.raw_skip else 0
        self.classifier = nn.Linear(config.hidden_size + n_pixels, config.num_labels)
        self.classifier.starts_at_zero = True
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self, expression_values: torch.FloatTensor, labels: Tensor | None = None, **kwargs
    ) -> CellClassifierOutput:
        r"""
        expression_values (`torch.FloatTensor` of shape `(batch, genes)`):
            Log-normalised expression of the genes of the processor, in its order.
        labels (`torch.Tensor` of shape `(batch,)`, *optional*):
            Numbers of the types.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(expression_values, **kwargs)
        read = encoded.cell_embedding
        if self.config.raw_skip:
            # channels last, as the original keeps them
            pixels = self.model.image(expression_values.to(read.dtype)).permute(0, 2, 3, 1).flatten(1)
            read = torch.cat([read, pixels], dim=1)
        logits = self.classifier(read)
        return CellClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config, num_items),
            logits=logits,
            cell_embedding=encoded.cell_embedding,
        )


__all__ = ["ScTransSortForSequenceClassification", "ScTransSortModel", "ScTransSortPreTrainedModel"]
