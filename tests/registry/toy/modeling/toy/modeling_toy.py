"""The toy: genes and their values go through one linear layer, and a cell is the mean of its genes."""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from sclm_hf.modeling.common.base import SclmPreTrainedModel
from sclm_hf.modeling.common.initialization import draw_linear
from sclm_hf.modeling.common.inputs import refuse_keywords
from sclm_hf.modeling.common.losses import classification_loss, masked_mse
from sclm_hf.modeling.common.outputs import CellClassifierOutput, CellModelOutput, GenesOutput
from sclm_hf.modeling.common.probe import head_size, with_common_heads

from .configuration_toy import ToyConfig


class ToyPreTrainedModel(SclmPreTrainedModel):
    config: ToyConfig

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, nn.Linear):
            draw_linear(module)
        else:
            super()._init_weights(module)


class ToyModel(ToyPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^(decoder|classifier)\."]

    def __init__(self, config: ToyConfig):
        super().__init__(config)
        self.genes = nn.Embedding(config.vocab_size, config.hidden_size)
        self.values = nn.Linear(1, config.hidden_size)
        self.mix = nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()

    def forward(self, input_ids, expression_values, attention_mask, **kwargs) -> CellModelOutput:
        refuse_keywords(self, kwargs)
        values = self.values(expression_values.to(self.dtype).unsqueeze(-1))
        hidden_states = torch.tanh(self.mix(self.genes(input_ids) + values))
        weights = attention_mask.to(self.dtype).unsqueeze(-1)
        mean = (hidden_states * weights).sum(1) / weights.sum(1)
        return CellModelOutput(last_hidden_state=hidden_states, cell_embedding=mean)


class ToyForMaskedExpression(ToyPreTrainedModel):
    def __init__(self, config: ToyConfig):
        super().__init__(config)
        self.model, self.decoder = ToyModel(config), nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, input_ids, expression_values, attention_mask, labels: Tensor | None = None, **kwargs):
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(input_ids, expression_values, attention_mask, **kwargs)
        logits = self.decoder(encoded.last_hidden_state).squeeze(-1)
        loss = None if labels is None else masked_mse(logits, labels, num_items)
        return GenesOutput(loss=loss, logits=logits, cell_embedding=encoded.cell_embedding)


class ToyForSequenceClassification(ToyPreTrainedModel):
    def __init__(self, config: ToyConfig):
        super().__init__(config)
        self.model, self.classifier = ToyModel(config), nn.Linear(config.hidden_size, head_size(config))
        self.post_init()

    @with_common_heads
    def forward(self, input_ids, expression_values, attention_mask, labels: Tensor | None = None, **kwargs):
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(input_ids, expression_values, attention_mask, **kwargs)
        logits = self.classifier(encoded.cell_embedding)
        loss = None if labels is None else classification_loss(logits, labels, self.config, num_items)
        return CellClassifierOutput(loss=loss, logits=logits, cell_embedding=encoded.cell_embedding)


__all__ = ["ToyForMaskedExpression", "ToyForSequenceClassification", "ToyModel", "ToyPreTrainedModel"]
