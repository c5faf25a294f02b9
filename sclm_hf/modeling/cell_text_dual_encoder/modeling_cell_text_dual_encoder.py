"""A dual encoder: cells and texts as directions of one space, in which a cell lies near what describes it.

Sources: Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021, for the
symmetric contrastive loss and its learnt temperature; Khosla et al., "Supervised contrastive learning", NeurIPS 2020,
for several texts that fit one cell; Zhao et al., "LangCell", ICML 2024, for the matching head.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, auto_docstring, can_return_tuple

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.base import SclmModelMixin

from .configuration_cell_text_dual_encoder import CellTextDualEncoderConfig

LARGEST_SCALE = math.log(100)
"""As in CLIP, similarities are never multiplied by more than 100."""


@dataclass
class CellTextDualEncoderOutput(ModelOutput):
    """What a dual encoder returns; of texts or cells that were not given, nothing.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Scalar, when labels were given.
        logits (`torch.FloatTensor`, *optional*):
            `(cells, texts)` similarities, divided by the temperature.
        cell_embedding (`torch.FloatTensor`, *optional*):
            `(cells, projection_dim)` of length 1.
        text_embedding (`torch.FloatTensor`, *optional*):
            `(texts, projection_dim)` of length 1.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    cell_embedding: torch.FloatTensor | None = None
    text_embedding: torch.FloatTensor | None = None


class Projection(nn.Module):
    """From the vector of a tower into the shared space.

    Args:
        size: width of the vector.
        config: the width of the space, and the kind of projection.
    """

    def __init__(self, size: int, config: CellTextDualEncoderConfig):
        super().__init__()
        width = config.projection_dim
        self.linear = nn.Linear(size, width, bias=False)
        self.is_deep = config.projection == "mlp"
        if self.is_deep:
            self.linear1, self.linear2 = nn.Linear(size, width), nn.Linear(width, width)
            self.norm = nn.LayerNorm(width)

    def forward(self, vectors: Tensor) -> Tensor:
        projected = self.linear(vectors)
        return self.norm(projected + self.linear2(F.gelu(self.linear1(vectors)))) if self.is_deep else projected


class MatchingLayer(nn.Module):
    """The tokens of a text look at those of a cell, then at themselves through a feed-forward block.

    Args:
        width: of the tokens.
        n_heads: attention heads.
    """

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))
        self.linear1, self.linear2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, texts: Tensor, cells: Tensor, cell_mask: Tensor) -> Tensor:
        """(pairs, words, width) from (pairs, words, width), (pairs, genes, width) and (pairs, genes) bool."""
        normed = self.norm1(texts)
        queries, keys, values = (
            layer(tokens).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for layer, tokens in ((self.q_proj, normed), (self.k_proj, cells), (self.v_proj, cells))
        )
        seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=cell_mask[:, None, None])
        texts = texts + self.o_proj(seen.transpose(1, 2).flatten(2))
        return texts + self.linear2(F.gelu(self.linear1(self.norm2(texts))))


class MatchingHead(nn.Module):
    """Whether a text describes a cell, from the tokens of both; one logit for each pair.

    Args:
        cell_size: width of the cell encoder's tokens.
        text_size: width of the text encoder's tokens.
        config: the width of the head, and its layers.
    """

    def __init__(self, cell_size: int, text_size: int, config: CellTextDualEncoderConfig):
        super().__init__()
        width = config.projection_dim
        self.cell_tokens, self.text_tokens = nn.Linear(cell_size, width), nn.Linear(text_size, width)
        self.layers = nn.ModuleList(MatchingLayer(width, config.matching_heads) for _ in range(config.matching_layers))
        self.norm = nn.LayerNorm(width)
        self.match = nn.Linear(width, 2)

    def forward(self, cells: "Tokens", texts: "Tokens") -> Tensor:
        """(pairs,) log-odds that the texts describe the cells."""
        genes, words = self.cell_tokens(cells.states), self.text_tokens(texts.states)
        for layer in self.layers:
            words = layer(words, genes, cells.mask)
        logits = self.match(masked_mean(self.norm(words), texts.mask)).float()
        return logits[:, 1] - logits[:, 0]


@dataclass
class Tokens:
    """The states of tokens, (batch, tokens, width), and which of them are real, (batch, tokens) bool."""

    states: Tensor
    mask: Tensor

    def __getitem__(self, rows: Tensor) -> "Tokens":
        return Tokens(self.states[rows], self.mask[rows])


@auto_docstring
class CellTextDualEncoderPreTrainedModel(SclmModelMixin, PreTrainedModel):
    config: CellTextDualEncoderConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("cell", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # the loss compares the rows of a batch, whose mean it is
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, CellTextDualEncoderModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
        elif isinstance(module, nn.Linear):
            # what a tower gives keeps its size, however wide the tower is
            init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        loaded = super().from_pretrained(*args, **kwargs)
        # loading makes every parameter trainable
        for module in (loaded[0] if isinstance(loaded, tuple) else loaded).modules():
            if hasattr(module, "freeze_untrained"):
                module.freeze_untrained()
        return loaded


@auto_docstring(
    custom_intro="""
    A cell-text dual encoder: genes and values, or words, in; one direction of the shared space per cell or text out.
    """
)
class CellTextDualEncoderModel(CellTextDualEncoderPreTrainedModel):
    def __init__(self, config: CellTextDualEncoderConfig):
        super().__init__(config)
        self.cell_model = AutoModel.from_config(config.cell_config)
        self.text_model = AutoModel.from_config(config.text_config)
        if getattr(self.text_model, "pooler", None) is not None:
            # tokens are pooled here, and a layer that nothing reaches would keep distributed training waiting
            self.text_model.pooler = None
        cell_size, text_size = config.cell_config.cell_embedding_size, config.text_config.hidden_size
        self.cell_projection = Projection(cell_size, config)
        self.text_projection = Projection(text_size, config)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.matching_head = None
        if config.matching_layers:
            self.matching_head = MatchingHead(config.cell_config.hidden_size, text_size, config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.cell_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.cell_model.set_input_embeddings(value)

    def lock(self, tower: str) -> None:
        """Keep a tower, `"cell"` or `"text"`, as it is while the other learns; its projection is trained.

        Raises:
            ConfigurationError: there is no such tower.
        """
        if tower not in ("cell", "text"):
            raise ConfigurationError(f"A tower is 'cell' or 'text', got {tower!r}.")
        (self.cell_model if tower == "cell" else self.text_model).requires_grad_(False)

    def get_cell_features(self, input_ids: Tensor | None = None, **cells: Any) -> BaseModelOutputWithPooling:
        """Directions of cells.

        Args:
            input_ids: (cells, genes) gene ids.
            **cells: what else the cell encoder takes, such as `expression_values` and `attention_mask`.

        Returns:
            `pooler_output` (cells, projection_dim), of length 1, and `last_hidden_state` of the cell encoder.
        """
        output = self.cell_model(input_ids=input_ids, **cells)
        embedding = F.normalize(self.cell_projection(output.cell_embedding), dim=-1)
        return BaseModelOutputWithPooling(last_hidden_state=output.last_hidden_state, pooler_output=embedding)

    def get_text_features(
        self, text_input_ids: Tensor, text_attention_mask: Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Directions of texts.

        Args:
            text_input_ids: (texts, words) token ids.
            text_attention_mask: (texts, words), 1 = real; by default all are.

        Returns:
            `pooler_output` (texts, projection_dim), of length 1, and `last_hidden_state` of the text encoder.
        """
        if text_attention_mask is None:
            text_attention_mask = torch.ones_like(text_input_ids)
        states = self.text_model(input_ids=text_input_ids, attention_mask=text_attention_mask).last_hidden_state
        pooled = pool(states, text_attention_mask.bool(), self.config.text_pooling)
        embedding = F.normalize(self.text_projection(pooled), dim=-1)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=embedding)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        expression_values: torch.Tensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        text_input_ids: torch.LongTensor | None = None,
        text_attention_mask: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        text_labels: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> CellTextDualEncoderOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(cells, genes)`, *optional*):
            Gene ids.
        expression_values (`torch.Tensor` of shape `(cells, genes)`, *optional*):
            The value of each gene, where the cell encoder reads any. Further inputs of the cell encoder are handed on.
        attention_mask (`torch.LongTensor` of shape `(cells, genes)`, *optional*):
            1 at real positions.
        text_input_ids (`torch.LongTensor` of shape `(texts, words)`, *optional*):
            Token ids of the texts; of a batch to train on, each different text once.
        text_attention_mask (`torch.LongTensor` of shape `(texts, words)`, *optional*):
            1 at real positions.
        labels (`torch.LongTensor` of shape `(cells,)`, *optional*):
            What each cell is; cells at -100 do not count.
        text_labels (`torch.LongTensor` of shape `(texts,)`, *optional*):
            What each text describes; by default its row. A cell and a text belong together where these are equal.
        """
        cells = texts = None
        given = {"expression_values": expression_values, "attention_mask": attention_mask}
        if input_ids is not None or kwargs.get("inputs_embeds") is not None:
            given = {name: tensor for name, tensor in given.items() if tensor is not None}
            cells = self.get_cell_features(input_ids, **given, **kwargs)
        if text_input_ids is not None:
            texts = self.get_text_features(text_input_ids, text_attention_mask)
        if cells is None and texts is None:
            raise ConfigurationError(
                "There is nothing to encode: give `input_ids` of cells, `text_input_ids`, or both."
            )
        logits = loss = None
        if cells is not None and texts is not None:
            logits = self.similarities(cells.pooler_output, texts.pooler_output)
        if labels is not None:
            loss = self._loss(logits, cells, texts, attention_mask, text_attention_mask, labels, text_labels)
        return CellTextDualEncoderOutput(
            loss=loss,
            logits=logits,
            cell_embedding=None if cells is None else cells.pooler_output,
            text_embedding=None if texts is None else texts.pooler_output,
        )

    def similarities(self, cells: Tensor, texts: Tensor) -> Tensor:
        """(cells, texts) cosines of directions, divided by the temperature, in float32."""
        scale = self.logit_scale.float().clamp(max=LARGEST_SCALE).exp()
        return scale * cells.float() @ texts.float().T

    def match_logits(self, cells: Tokens, texts: Tokens) -> Tensor:
        """(cells, texts) log-odds of the matching head for every pair, one text at a time.

        Raises:
            ConfigurationError: the model has no such head.
        """
        if self.matching_head is None:
            raise ConfigurationError("The model has no matching head: train one with `matching_layers` above 0.")
        n_cells, n_texts = len(cells.mask), len(texts.mask)
        columns = [
            self.matching_head(cells, texts[torch.full((n_cells,), text, device=texts.mask.device)])
            for text in range(n_texts)
        ]
        return torch.stack(columns, dim=1)

    def _loss(
        self,
        logits: Tensor | None,
        cells: BaseModelOutputWithPooling | None,
        texts: BaseModelOutputWithPooling | None,
        attention_mask: Tensor | None,
        text_attention_mask: Tensor | None,
        labels: Tensor,
        text_labels: Tensor | None,
    ) -> Tensor:
        if logits is None:
            raise ConfigurationError("`labels` say which texts describe which cells: give both, cells and texts.")
        if text_labels is None:
            text_labels = torch.arange(logits.shape[1], device=logits.device)
        together = labels[:, None] == text_labels
        loss = contrastive_loss(logits, together)
        if self.matching_head is None:
            return loss
        pairs, targets = pairs_to_match(logits.detach(), together)
        found = self.matching_head(
            cell_tokens(cells, attention_mask)[pairs[:, 0]], text_tokens(texts, text_attention_mask)[pairs[:, 1]]
        )
        return loss + F.binary_cross_entropy_with_logits(found, targets)


def cell_tokens(cells: BaseModelOutputWithPooling, attention_mask: Tensor | None) -> Tokens:
    """What a matching head sees of cells.

    Raises:
        ConfigurationError: the cell encoder gives no states of genes.
    """
    states = cells.last_hidden_state
    if states is None or states.ndim != 3:
        raise ConfigurationError(
            "A matching head looks at the genes of a cell, and this cell encoder gives no state for each: set "
            "`matching_layers` to 0, or choose another."
        )
    if attention_mask is None or attention_mask.shape != states.shape[:2]:
        attention_mask = states.new_ones(states.shape[:2])
    return Tokens(states, attention_mask.bool())


def text_tokens(texts: BaseModelOutputWithPooling, attention_mask: Tensor | None) -> Tokens:
    """What a matching head sees of texts."""
    states = texts.last_hidden_state
    return Tokens(
        states, states.new_ones(states.shape[:2]).bool() if attention_mask is None else attention_mask.bool()
    )


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """(texts, width) from (texts, words, width) and (texts, words) bool, wherever the padding stands."""
    if pooling == "mean":
        return masked_mean(states, mask)
    places = torch.arange(mask.shape[1], device=mask.device)
    place = torch.where(mask, places, -1).amax(1) if pooling == "last" else mask.long().argmax(1)
    return states[torch.arange(len(states), device=states.device), place]


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """(texts, width) mean over the words that are real."""
    real = mask.unsqueeze(-1).to(states.dtype)
    return (states * real).sum(1) / real.sum(1).clamp(min=1)


def contrastive_loss(logits: Tensor, together: Tensor) -> Tensor:
    """How badly each cell tells its texts from others, and each text its cells; the mean of both directions.

    What belongs together is never pushed apart: of two cells of the same kind, neither counts against the other.

    Args:
        logits: (cells, texts).
        together: (cells, texts) bool, which texts describe which cells; cells without any do not count, for they may
            be of any kind.

    Returns:
        A scalar; 0 where nothing belongs together.
    """
    known = together.any(dim=1)
    logits, together = logits[known], together[known]
    return (_one_way(logits, together) + _one_way(logits.T, together.T)) / 2


def _one_way(logits: Tensor, together: Tensor) -> Tensor:
    n_together = together.sum(dim=1)
    logs = logits.log_softmax(dim=1)
    losses = -torch.where(together, logs, 0.0).sum(dim=1) / n_together.clamp(min=1)
    counts = n_together > 0
    return losses[counts].sum() / counts.sum().clamp(min=1)


def pairs_to_match(logits: Tensor, together: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs that a matching head learns from: each cell with its likeliest text, and with the likeliest wrong one.

    Args:
        logits: (cells, texts).
        together: (cells, texts) bool.

    Returns:
        (pairs, 2) numbers of cells and texts, and (pairs,) 1 where they belong together.
    """
    pairs, targets = [], []
    rows = torch.arange(len(logits), device=logits.device)
    for allowed, target in ((together, 1.0), (~together & together.any(dim=1, keepdim=True), 0.0)):
        able = allowed.any(dim=1)
        best = logits.masked_fill(~allowed, -torch.inf).argmax(dim=1)
        pairs.append(torch.stack([rows, best], dim=1)[able])
        targets.append(logits.new_full((int(able.sum()),), target))
    return torch.cat(pairs), torch.cat(targets)


__all__ = ["CellTextDualEncoderModel", "CellTextDualEncoderPreTrainedModel"]
