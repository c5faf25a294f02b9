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
from transformers.utils import ModelOutput

from .losses import classification_loss
from .outputs import CellClassifierOutput, embedding_of


def probe_leaves(config: PreTrainedConfig) -> list[str] | None:
    """Classes of the classifier that a probe reads beside the embedding; None where a model has no probe."""
    return getattr(config, "probe_leaves", None)


def head_size(config: PreTrainedConfig) -> int:
    """Number of classes of a family's own classifier."""
    return len(probe_leaves(config) or ()) or config.num_labels


FLOOR = 1e-4
"""Added to the probability of a label's leaves: what a classifier of leaves excludes may still be."""


class Probe(nn.Module):
    """Standardisation and one linear layer, in float32; what labels mean in terms of the leaves has a say.

    The buffer `meanings`, (n_labels, n_leaves), is 1 where a label means a leaf; see [`with_meanings`].

    Args:
        n_features: size of the embedding, and number of leaves.
        n_labels: number of labels.
        n_leaves: number of leaves, whose log-probabilities are the last features.
    """

    def __init__(self, n_features: int, n_labels: int, n_leaves: int = 0):
        super().__init__()
        self.register_buffer("meanings", torch.zeros(n_labels, n_leaves))
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("deviation", torch.ones(n_features))
        self.linear = nn.Linear(n_features, n_labels)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, n_labels) logits for (batch, n_features) features."""
        standardised = (features - self.mean.float()) / self.deviation.float()
        logits = F.linear(standardised, self.linear.weight.float(), self.linear.bias.float())
        return with_meanings(logits, features, self.meanings.float())


def with_meanings(logits: Tensor, features: Tensor, meanings: Tensor) -> Tensor:
    """Logits that also heed how probable the leaves are that labels mean.

    Among the labels that mean leaves, the logarithm of the leaves' probability is added. Their probability together
    stays what it was: of labels that mean nothing to the classifier of leaves it has nothing to say.

    Args:
        logits: (batch, n_labels).
        features: (batch, n_features), of which the last are the log-probabilities of the leaves.
        meanings: (n_labels, n_leaves), 1 where a label means a leaf.

    Returns:
        (batch, n_labels).
    """
    told = meanings.any(dim=1)
    if told.sum() < 2:
        return logits
    leaves = features[:, -meanings.shape[1] :].exp()
    before = logits[:, told]
    after = before + (leaves @ meanings[told].T + FLOOR).log()
    shift = before.logsumexp(dim=1, keepdim=True) - after.logsumexp(dim=1, keepdim=True)
    return logits.masked_scatter(told.expand_as(logits), after + shift)


def has_common_heads(model_class: type[nn.Module]) -> bool:
    """Whether models of a class can have a probe, or a linear path beside the encoder."""
    return hasattr(model_class.forward, "with_common_heads")


def with_common_heads(forward: Callable) -> Callable:
    """Decorator of the `forward` of a classifier of cells, which adds what the classifiers of all families can have.

    Where the model has a probe, the logits are those of the probe. Where it has a linear path beside the encoder, its
    logits are added. `forward` takes what the encoder takes, in the same order, and `labels`.
    """
    names = list(inspect.signature(forward).parameters)[1:]
    place = names.index("labels")

    @functools.wraps(forward)
    def complete(self, *args, **kwargs):
        if self.probe is None and self.gene_bag is None:
            return forward(self, *args, **kwargs)
        labels = args[place] if len(args) > place else kwargs.pop("labels", None)
        num_items = kwargs.pop("num_items_in_batch", None)
        args = args[:place]
        run = self.base_model if probe_leaves(self.config) == [] else functools.partial(forward, self)
        encoded = run(*args, **kwargs)
        logits = encoded.logits if self.probe is None else self.probe(_features(encoded, self.config))
        if self.gene_bag is not None:
            given = dict(zip(names, args, strict=False)) | kwargs
            tensors = (given.get(name) for name in ("input_ids", "expression_values", "attention_mask"))
            logits = logits + self.gene_bag(*tensors).to(logits.dtype)
        return CellClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config, num_items),
            logits=logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.get("attentions"),
        )

    complete.with_common_heads = True
    return complete


def _features(encoded: ModelOutput, config: PreTrainedConfig) -> Tensor:
    """What a probe reads of the output of an encoder, or of the family's own classifier."""
    features = embedding_of(encoded, config)
    if not config.probe_leaves:
        return features
    return torch.cat([features, encoded.logits.float().log_softmax(dim=-1)], dim=-1)
