"""Losses over genes and cells that more than one family uses.

Element-wise losses are sums divided by `num_items_in_batch` where the trainer gives it (the number of targets over the
whole accumulation window and all processes), and means over the targets otherwise. Targets equal to -100 are ignored.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedConfig

from sclm_hf.errors import ConfigurationError

IGNORE = -100


def mean_over_targets(values: Tensor, is_target: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Sum of `values` where `is_target`, divided by the number of targets (at least 1)."""
    total = torch.where(is_target, values, 0.0).sum()
    count = is_target.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    if isinstance(count, Tensor):
        count = count.to(total.device)
    return total / count


def check_targets(labels: Tensor, prediction: Tensor) -> None:
    """Refuse labels that torch would stretch to the shape of what is predicted.

    Raises:
        ConfigurationError: they have another shape.
    """
    if labels.shape != prediction.shape:
        raise ConfigurationError(
            f"`labels` must be {tuple(prediction.shape)}, one for each prediction (-100 where there is none); got "
            f"{tuple(labels.shape)}."
        )


def masked_mse(prediction: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Mean squared error over the targets; `prediction` and `labels` are `(batch, genes)`."""
    check_targets(labels, prediction)
    error = (prediction.float() - labels.float()) ** 2
    return mean_over_targets(error, labels != IGNORE, num_items_in_batch)


def masked_nonzero_nll(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Negative log-likelihood of "this gene is expressed" over the targets; `logits` are `(batch, genes)`."""
    check_targets(labels, logits)
    nll = F.binary_cross_entropy_with_logits(logits.float(), (labels > 0).float(), reduction="none")
    return mean_over_targets(nll, labels != IGNORE, num_items_in_batch)


def cross_entropy(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Mean cross entropy over the targets; `logits` are `(targets, classes)`, `labels` `(targets,)` class numbers."""
    nll = F.cross_entropy(logits.float(), labels, reduction="none", ignore_index=IGNORE)
    return mean_over_targets(nll, labels != IGNORE, num_items_in_batch)


def counts(labels: Tensor) -> Tensor:
    """(targets,) bool: which labels say something; not -100, nor a set of classes that is empty or holds all.

    Args:
        labels: class numbers, or (cells, classes) bool sets of classes.
    """
    if labels.dtype == torch.bool and labels.ndim == 2:
        return labels.any(dim=1) & ~labels.all(dim=1)
    return labels != IGNORE


def label_set_loss(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Mean of -log of the probability of a set of classes, over the cells whose set says something.

    Args:
        logits: `(cells, classes)`.
        labels: `(cells, classes)` bool, the classes that a cell may have; empty and full sets count nothing.
        num_items_in_batch: as everywhere here.

    Raises:
        ConfigurationError: the labels have another shape than the logits.
    """
    check_targets(labels, logits)
    is_target, scores = counts(labels), logits.float()
    inside = scores.masked_fill(~(labels | ~is_target.unsqueeze(1)), -torch.inf).logsumexp(dim=1)
    return mean_over_targets(scores.logsumexp(dim=1) - inside, is_target, num_items_in_batch)


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    config: PreTrainedConfig,
    num_items_in_batch: Tensor | int | None = None,
    *,
    name: str = "labels",
) -> Tensor:
    """The loss of a classifier, as `config.problem_type` says; None infers it from the labels as transformers does.

    Args:
        logits: `(cells, num_labels)`.
        labels: `"single_label_classification"`: `(cells,)` class numbers; or `(cells, num_labels)` bool, the classes
            that each cell may have (see [`label_set_loss`]). `"multi_label_classification"`:
            `(cells, num_labels)`, 1 where the cell has the label. `"regression"`: `(cells, num_labels)` numbers, or
            `(cells,)` with `num_labels=1`. -100 is ignored in each.
        config: of the model.
        num_items_in_batch: as everywhere here; labels of each cell are counted one by one.
        name: how the user calls the labels.

    Raises:
        ConfigurationError: the labels are not what the problem needs.
    """
    problem = config.problem_type or _inferred_problem(labels, config.num_labels)
    labels = labels.to(logits.device)
    if problem == "single_label_classification":
        if labels.dtype == torch.bool and labels.ndim == 2:
            return label_set_loss(logits, labels, num_items_in_batch)
        return cross_entropy(logits, class_numbers(logits, labels, name), num_items_in_batch)
    if labels.shape == logits.shape[:1] and logits.shape[1] == 1:
        labels = labels.unsqueeze(1)
    if labels.shape != logits.shape:
        raise ConfigurationError(
            f"`{name}` must be {tuple(logits.shape)}, cells by `config.num_labels`, for `config.problem_type` "
            f"'{problem}'; got {tuple(labels.shape)}. Classes of cells are integers (cells,), and "
            "'single_label_classification'."
        )
    is_target, targets = labels != IGNORE, labels.float()
    if problem == "regression":
        return masked_mse(logits, labels, num_items_in_batch)
    _check_label_flags(targets, is_target, name)
    values = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return mean_over_targets(values, is_target, num_items_in_batch)


def gene_classification_loss(
    logits: Tensor, labels: Tensor, config: PreTrainedConfig, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """As [`classification_loss`], of genes: `logits` are `(batch, genes, num_labels)`.

    Raises:
        ConfigurationError: the labels are not what the problem needs.
    """
    if labels.shape[:2] != logits.shape[:2]:
        raise ConfigurationError(
            f"`labels` must be (batch, genes), here {tuple(logits.shape[:2])}; got {tuple(labels.shape)}."
        )
    return classification_loss(logits.flatten(0, 1), labels.flatten(0, 1), config, num_items_in_batch)


def _inferred_problem(labels: Tensor, num_labels: int) -> str:
    if num_labels == 1:
        return "regression"
    whole = not (labels.is_floating_point() or labels.dtype == torch.bool)
    return "single_label_classification" if whole else "multi_label_classification"


def class_numbers(logits: Tensor, labels: Tensor, name: str, *, setting: str = "num_labels") -> Tensor:
    """Labels `(cells,)` int64, the classes that `logits` (cells, classes) are of.

    Args:
        logits, labels: as for [`classification_loss`].
        name: how the user calls the labels.
        setting: of the configuration, which says how many classes there are.

    Raises:
        ConfigurationError: they are none.
    """
    cells, classes = logits.shape
    if labels.is_floating_point() or labels.shape not in ((cells,), (cells, 1)):
        raise ConfigurationError(
            f"`{name}` must be ({cells},) class numbers, int64, for `config.problem_type` "
            f"'single_label_classification'; got {tuple(labels.shape)} of {labels.dtype}. Several labels per cell are "
            "'multi_label_classification', numbers 'regression'."
        )
    labels = labels.reshape(cells).long()
    _check_range(labels, labels != IGNORE, classes - 1, f"`{name}` must be class numbers", f"set `config.{setting}`")
    return labels


def _check_label_flags(targets: Tensor, is_target: Tensor, name: str) -> None:
    what = f"`{name}` of several labels per cell must say yes or no"
    _check_range(targets, is_target, 1, what, "give numbers the `config.problem_type` 'regression'")


def _check_range(values: Tensor, is_target: Tensor, largest: int, what: str, mend: str) -> None:
    # a GPU would have to finish all work before it could answer
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return
    wrong = values[is_target & ((values < 0) | (values > largest))]
    if len(wrong):
        raise ConfigurationError(
            f"{what}, 0 to {largest} (or {IGNORE}, which is ignored); there is {wrong[0].item():g}: number them so, "
            f"or {mend}."
        )


def masked_relative_error(prediction: Tensor, labels: Tensor) -> Tensor:
    """Mean of `|prediction - label| / (label + 1e-6)` over the targets (a metric, not a loss)."""
    error = (prediction - labels).abs() / (labels + 1e-6)
    return mean_over_targets(error, labels != IGNORE)


def elastic_cell_similarity(cell_embedding: Tensor, threshold: float) -> Tensor:
    """ECS of scGPT: pushes the cosine similarity of every pair of cells away from `threshold`.

    The diagonal is set to 0, negative similarities are clipped, and the mean runs over all B² pairs.
    `cell_embedding` is `(batch, hidden)`.
    """
    normalized = F.normalize(cell_embedding.float(), dim=-1)
    similarity = normalized @ normalized.T
    similarity = similarity * (1 - torch.eye(len(similarity), device=similarity.device))
    return (1 - (F.relu(similarity) - threshold) ** 2).mean()


def contrastive_cell_embedding(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """CCE of scGPT: each cell must recognise its own second dropout view; both are `(batch, hidden)`."""
    similarity = F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).T
    return F.cross_entropy(similarity / temperature, torch.arange(len(first), device=first.device))


def reverse_gradient(tensor: Tensor) -> Tensor:
    """The same values with the gradient negated (Ganin & Lempitsky, 2015, λ = 1)."""
    return 2 * tensor.detach() - tensor
