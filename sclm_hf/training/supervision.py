"""Supervised pre-training: the settings of its labels and loss, and the classifier that it trains."""

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..corpora.contents import Contents
from ..errors import ConfigurationError
from ..objectives.collation import CellCollator
from ..objectives.supervised import SupervisedCollator, Supervision, ValueDecoder, embedding_size
from ..opening.kinds import inner_model
from ..tokenization.processing_cell import CellProcessor
from .settings.supervision import LossArguments, SupervisionArguments

LARGEST_MARGIN = 2.0
"""Margin of the rarest class, in logits, with `loss="ldam"`."""


def class_names(corpus: Contents) -> list[str]:
    """The classes that a classifier of the corpus has: leaves of the ontology, else the labels themselves."""
    return corpus.leaf_names or corpus.label_names


def class_sets(corpus: Contents) -> np.ndarray:
    """(labels, classes) bool: the classes that each label may mean."""
    return np.eye(len(corpus.label_names), dtype=bool) if corpus.label_sets is None else corpus.label_sets


def check_labels(corpus: Contents) -> None:
    """Refuse a corpus whose labels teach nothing.

    Raises:
        ConfigurationError: there are none, or fewer than two that say something and differ.
    """
    if corpus.label_names is None:
        raise ConfigurationError("The objective 'supervised' needs labels: name their column with `label_column`.")
    present = np.flatnonzero(label_counts(corpus))
    sets = class_sets(corpus)[present]
    if len(np.unique(sets[~sets.all(axis=1)], axis=0)) < 2:
        names = [corpus.label_names[number] for number in present]
        raise ConfigurationError(
            f"The cells to train on have the labels {names[:10]}, which do not tell any apart: a classifier needs at "
            "least two that mean something else."
        )


def label_counts(corpus: Contents) -> np.ndarray:
    """(labels,) int64: how many cells of the corpus have each label."""
    return np.bincount(np.concatenate(corpus.numbered["labels"]), minlength=len(corpus.label_names))


def note_classes(model: PreTrainedModel, corpus: Contents) -> None:
    """Write into the configuration what the classes are, and in which groups they stand."""
    names = class_names(corpus)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}
    model.config.problem_type = "single_label_classification"
    if corpus.ontology is not None:
        model.config.label_parents = corpus.ontology.part_above(corpus.leaf_names)


def supervised_collator(
    corpus: Contents, processor: CellProcessor, arguments: LossArguments, *, seed: int = 0
) -> SupervisedCollator:
    """The collator for the cells of `corpus`, which numbers the labels."""
    weights = balanced_weights(label_counts(corpus)) if arguments.class_weights == "balanced" else None
    return SupervisedCollator.from_processor(
        processor, label_sets=class_sets(corpus), label_weights=weights, seed=seed
    )


def supervision(
    model: PreTrainedModel, corpus: Contents, processor: CellProcessor, arguments: SupervisionArguments
) -> nn.Module:
    """The classifier, inside what adds to its loss if `arguments` ask for that."""
    decoder = ValueDecoder.fitting(model, processor) if arguments.denoising_weight else None
    adds = decoder is not None or arguments.embedding_weight or arguments.spread_weight or arguments.weighs_labels
    if not adds:
        return model
    told = nn.Linear(embedding_size(model), len(class_names(corpus))) if arguments.embedding_weight else None
    return Supervision(
        model,
        decoder=decoder,
        denoising_weight=arguments.denoising_weight,
        embedding_classifier=told,
        embedding_weight=arguments.embedding_weight,
        spread_weight=arguments.spread_weight,
        margins=margins_of(corpus, arguments),
    )


def weigh_labels(
    model: nn.Module, corpus: Contents, collator: CellCollator, processor: CellProcessor, arguments: LossArguments
) -> tuple[nn.Module, CellCollator]:
    """A classifier of the corpus's own labels and its collator, with the loss that `arguments` ask for in training.

    Args:
        model: the classifier, with or without PEFT around it.
        corpus: the cells to train on.
        collator: used where all labels count the same.
        processor: of the cells.
        arguments: the loss.
    """
    if not arguments.weighs_labels:
        return model, collator
    inner_model(model).config.problem_type = "single_label_classification"
    weighing = supervised_collator(corpus, processor, arguments, seed=collator.seed)
    return Supervision(model, margins=margins_of(corpus, arguments)), weighing


def margins_of(corpus: Contents, arguments: LossArguments) -> torch.Tensor | None:
    """(classes,) float32 margins for the labels of the corpus, None without."""
    if arguments.loss != "ldam":
        return None
    return torch.tensor(ldam_margins(label_counts(corpus), class_sets(corpus)), dtype=torch.float32)


def balanced_weights(n_cells: np.ndarray) -> np.ndarray:
    """(labels,) weights by which all labels count the same and a cell counts 1 on average.

    Args:
        n_cells: (labels,) cells with each label.
    """
    return n_cells.sum() / (np.count_nonzero(n_cells) * np.maximum(n_cells, 1))


def ldam_margins(n_cells: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """(classes,) margins proportional to n^-1/4; the rarest class with cells has [`LARGEST_MARGIN`].

    Source: Cao et al., "Learning imbalanced datasets with label-distribution-aware margin loss", NeurIPS 2019. A cell
    counts an equal part for each class that its label may mean.

    Args:
        n_cells: (labels,) cells with each label.
        sets: (labels, classes) bool.
    """
    says_something = sets & ~sets.all(axis=1, keepdims=True)
    parts = says_something / np.maximum(says_something.sum(axis=1, keepdims=True), 1)
    n_of_class = n_cells @ parts
    margins = np.where(n_of_class > 0, np.maximum(n_of_class, 1e-9) ** -0.25, 0)
    return margins / max(margins.max(), 1e-9) * LARGEST_MARGIN


def label_set_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Share of cells whose most probable class their label may mean, `accuracy`, and its mean over the labels.

    Args:
        logits: (cells, classes).
        labels: (cells, classes) bool; sets that say nothing are left out.
    """
    told = labels.any(axis=1) & ~labels.all(axis=1)
    logits, labels = logits[told], labels[told]
    if not len(labels):
        return {"accuracy": float("nan"), "balanced_accuracy": float("nan")}
    right = labels[np.arange(len(labels)), logits.argmax(axis=1)]
    _, kinds = np.unique(labels, axis=0, return_inverse=True)
    kinds = kinds.ravel()
    recalls = np.bincount(kinds, weights=right) / np.bincount(kinds)
    return {"accuracy": float(right.mean()), "balanced_accuracy": float(recalls.mean())}
