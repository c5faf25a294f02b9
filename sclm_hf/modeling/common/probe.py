"""A probe: logistic regression on standardised embeddings of cells, in the place of a family's own classifier.

The attribute `probe_leaves` of the configuration, which every family takes, says whether a classifier of cells has a
probe. None, or no such attribute: the family's own classifier labels the cells. A list: the probe does. The list names
the classes ("leaves") of the family's own classifier, whose log-probabilities the probe reads beside the embedding;
with an empty list it reads the embedding alone, and there is no other classifier.
"""

import functools
import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .losses import classification_loss
from .outputs import CellClassifierOutput, embedding_of


def probe_leaves(config: PreTrainedConfig) -> list[str] | None:
    """Classes of the classifier that a probe reads beside the embedding; None where a model has no probe."""
    return getattr(config, "probe_leaves", None)


def head_size(config: PreTrainedConfig) -> int:
    """Number of classes of a family's own classifier."""
    return len(probe_leaves(config) or ()) or config.num_labels


class Probe(nn.Module):
    """Standardisation and one linear layer, in float32.

    Args:
        n_features: size of the embedding, and number of leaves.
        n_labels: number of labels.
    """

    def __init__(self, n_features: int, n_labels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("deviation", torch.ones(n_features))
        self.linear = nn.Linear(n_features, n_labels)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, n_labels) logits for (batch, n_features) features."""
        standardised = (features - self.mean.float()) / self.deviation.float()
        return F.linear(standardised, self.linear.weight.float(), self.linear.bias.float())


def takes_probe(model_class: type[nn.Module]) -> bool:
    """Whether models of a class can have a probe."""
    return hasattr(model_class.forward, "with_probe")


def with_probe(forward: Callable) -> Callable:
    """Decorator of the `forward` of a classifier of cells: where the model has a probe, the logits are those of it.

    `forward` takes what the encoder takes, in the same order, and `labels`.
    """
    place = list(inspect.signature(forward).parameters).index("labels") - 1

    @functools.wraps(forward)
    def probed(self, *args, **kwargs):
        if self.probe is None:
            return forward(self, *args, **kwargs)
        labels = args[place] if len(args) > place else kwargs.pop("labels", None)
        num_items = kwargs.pop("num_items_in_batch", None)
        run = functools.partial(forward, self) if self.config.probe_leaves else self.base_model
        encoded = run(*args[:place], **kwargs)
        features = embedding_of(encoded, self.config)
        if self.config.probe_leaves:
            features = torch.cat([features, encoded.logits.float().log_softmax(dim=-1)], dim=-1)
        logits = self.probe(features)
        return CellClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config, num_items),
            logits=logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.get("attentions"),
        )

    probed.with_probe = True
    return probed
