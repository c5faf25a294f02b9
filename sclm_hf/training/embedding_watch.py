"""What the cell embedding of a model is worth while it trains, and whether it has collapsed."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ..corpora.cell_corpus import CellCorpus
from ..errors import SclmError, require
from ..evaluation.collapse import FEWEST_CELLS, Collapse, measure_collapse
from ..logging import get_logger
from ..modeling.common.cpu import fast_on_cpu
from ..modeling.common.outputs import embedding_of
from ..opening.inference import independent_cells
from ..opening.kinds import inner_model
from ..tokenization.encodings.keys import cell_keys
from .checkpoints import TrainingState
from .probe import STRENGTHS, fit_probe
from .saving import kept_model
from .steps import narrow_batches, on_device
from .supervision import class_sets
from .validation import classification_metrics

logger = get_logger(__name__)

MOST_CELLS = 2000
"""So many cells are embedded at an evaluation."""

LOWEST_RANK = 2.0
"""Below this effective rank, embeddings tell cells apart along one direction."""

CLEAR_LOSS = 0.05
"""Macro-F1 that a probe must lose where labels are learnt; less is chance."""

EVALUATIONS_IN_A_ROW = 2
"""So many of them must find a collapse before training stops."""


class EmbeddingQuality(NamedTuple):
    """What embeddings are worth.

    Attributes:
        collapse: how alike they are.
        probe_macro_f1: macro-F1 of a probe on cells that it was not fitted on; None without labels.
    """

    collapse: Collapse
    probe_macro_f1: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers, by the names that an evaluation gives them."""
        metrics = {name: value for name, value in self.collapse.to_dict().items() if name != "n_cells"}
        return metrics if self.probe_macro_f1 is None else metrics | {"probe_macro_f1": self.probe_macro_f1}

    def to_dict(self) -> dict[str, float | None]:
        """The numbers, by name, as `from_dict` takes them."""
        return {**self.collapse.to_dict(), "probe_macro_f1": self.probe_macro_f1}

    @classmethod
    def from_dict(cls, numbers: Mapping[str, float | None]) -> "EmbeddingQuality":
        """The quality that `to_dict` wrote."""
        return cls(Collapse(*(numbers[name] for name in Collapse._fields)), numbers["probe_macro_f1"])


class EmbeddingWatch:
    """Embeds cells with a model in training, as `embed` would with the saved one, and says what that is worth.

    It always measures mean cosine, the share of the variance along one direction, and effective rank (see
    [`Collapse`]); and where the cells have labels, the macro-F1 of a probe, a logistic regression on the embeddings
    that is fitted on one half of the cells of each label and tested on the other. Nothing of this changes the model,
    nor what is random about its training.

    Args:
        corpus: the cells, of which at most `MOST_CELLS` are drawn; with labels or without.
        batch_size: cells per forward pass; of samples, the most cells of each.
        stops: whether a collapse ends the run.
        learns_labels: whether the objective reads labels: it may leave few directions, and the embedding has
            collapsed only if the probe also does clearly worse than at first.

    Raises:
        MissingDependencyError: the cells have labels, and scikit-learn is not installed.
    """

    finding = "the cell embedding collapsed"

    def __init__(
        self, corpus: CellCorpus, *, batch_size: int, stops: bool = True, learns_labels: bool = False
    ) -> None:
        self.corpus, self.batch_size = corpus.drawn(MOST_CELLS), batch_size
        self.stops, self.learns_labels = stops, learns_labels
        self._classes = None
        if corpus.label_names is not None:
            self._note_classes()

    @property
    def names(self) -> set[str]:
        """What it measures."""
        probe = None if self._classes is None else 0.0
        return set(EmbeddingQuality(measure_collapse(np.eye(2)), probe).metrics)

    def measure(self, model: nn.Module) -> EmbeddingQuality:
        """What the embeddings are worth that a model, or what is inside what is trained, now gives.

        Raises:
            SclmError: an embedding is not finite.
        """
        embeddings, carried = embed_corpus(model, self.corpus, self.batch_size)
        collapse = measure_collapse(embeddings)
        if self._classes is None:
            return EmbeddingQuality(collapse)
        labels, cell_ids = carried["labels"], carried["cell_ids"]
        return EmbeddingQuality(collapse, probe_score(embeddings, self._classes[labels], cell_ids, self.corpus.seed))

    def has_collapsed(self, state: TrainingState) -> bool:
        """Whether a run is to end because its embedding collapsed."""
        return self.stops and state.collapsed_evaluations >= EVALUATIONS_IN_A_ROW

    def note(self, state: TrainingState, quality: EmbeddingQuality) -> EmbeddingQuality:
        """Compare a measurement with the first one, in `state`, which is changed in place; returns what is told."""
        if state.first_embedding is None:
            state.first_embedding = quality.to_dict()
            return quality
        state.last_embedding = quality.to_dict()
        collapsed = self._has_lost(quality, EmbeddingQuality.from_dict(state.first_embedding))
        state.collapsed_evaluations = state.collapsed_evaluations + 1 if collapsed else 0
        return quality

    def advice(self, state: TrainingState) -> str:
        """What to do about an embedding that collapsed, in a sentence."""
        first, last = state.first_embedding, state.last_embedding
        told = {
            "effective rank": "effective_rank",
            "mean cosine between cells": "mean_cosine",
            "macro-F1 of a probe": "probe_macro_f1",
        }
        known = {what: name for what, name in told.items() if None not in (first[name], last[name])}
        numbers = [f"{what} {last[name]:.3g} (at first {first[name]:.3g})" for what, name in known.items()]
        return (
            f"The cell embedding collapsed, {', '.join(numbers)}: lower `learning_rate`, keep of long cells the genes "
            "that stand out (`truncation` 'zscore' in `encoding`), or use the `objective` supervised or contrastive; "
            "`stop_on_collapse=False` (`--stop_on_collapse false`) trains on."
        )

    def _has_lost(self, now: EmbeddingQuality, first: EmbeddingQuality) -> bool:
        """Whether embeddings show a sign of collapse that they had not at first, or lie along one direction."""
        probes = now.probe_macro_f1, first.probe_macro_f1
        if self.learns_labels and (None in probes or probes[0] > probes[1] - CLEAR_LOSS):
            return False
        rank = now.collapse.effective_rank
        flat = now.collapse.n_cells >= FEWEST_CELLS and rank < LOWEST_RANK and rank <= first.collapse.effective_rank
        return flat or bool(now.collapse.signs - first.collapse.signs)

    def _note_classes(self) -> None:
        """Find the class of each label, if there are two or more."""
        require("sklearn.linear_model", extra="evaluation")
        numbers = np.concatenate(self.corpus.numbered["labels"])
        classes = distinct_classes(class_sets(self.corpus), np.unique(numbers))
        if (np.bincount(classes[numbers][classes[numbers] >= 0], minlength=2) >= 2).sum() >= 2:
            self._classes = classes
        else:
            logger.warning(
                "The cells to evaluate on have no two labels of two cells or more that tell them apart: no probe is "
                "fitted to the embeddings."
            )


@torch.no_grad()
def embed_corpus(model: nn.Module, corpus: CellCorpus, batch_size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Embed the cells of a corpus, in its order, with a model in training, or what is inside what is trained.

    Args:
        model: the module that is trained; left as it is.
        corpus: the cells.
        batch_size: cells per forward pass; of samples, the most cells of each.

    Returns:
        (n_cells, size) embeddings; and what the corpus says of the cells: `cell_ids`, and `labels` and `batch_labels`
        where it has them.

    Raises:
        SclmError: an embedding is not finite.
    """
    encoder = inner_model(kept_model(model)).base_model
    names = {*corpus.processor.model_input_names}
    if getattr(encoder.config, "needs_batch_labels", False):
        names.add("batch_labels")
    embeddings, carried = [], []
    with independent_cells(encoder), fast_on_cpu(encoder):
        for batch in narrow_batches(corpus.loader(batch_size)):
            inputs = {name: values for name, values in on_device(batch, encoder.device).items() if name in names}
            embeddings.append(embedding_of(encoder(**inputs), encoder.config).cpu().numpy())
            told = ("labels", "batch_labels", "cell_ids")
            carried.append({name: batch[name].numpy() for name in told if name in batch})
    found = np.concatenate(embeddings)
    finite = np.isfinite(found).all(axis=1)
    if not finite.all():
        raise SclmError(
            f"The model gave embeddings that are NaN or infinite for {(~finite).sum():,} of {len(finite):,} "
            "evaluated cells: lower `learning_rate` or use `mixed_precision=no`, and resume from an earlier "
            "checkpoint."
        )
    return found, {name: np.concatenate([one[name] for one in carried]) for name in carried[0]}


def distinct_classes(sets: np.ndarray, present: np.ndarray) -> np.ndarray:
    """(labels,) int64: the class of each label; -1 for those that are absent or mean more than another one.

    Labels that mean the same are one class. "Lymphocyte" is none where there are cells of the label "T cell".

    Args:
        sets: (labels, leaves) bool, which leaves each label may mean.
        present: numbers of the labels that cells have.
    """
    classes = np.full(len(sets), -1)
    kinds, numbers = np.unique(sets[present], axis=0, return_inverse=True)
    overlap = kinds.astype(np.int64) @ kinds.T
    sizes = kinds.sum(axis=1)
    holds_another = ((overlap == sizes) & (sizes[:, None] > sizes)).any(axis=1) | (len(kinds) > 1) & kinds.all(axis=1)
    classes[present] = np.where(holds_another, -1, np.arange(len(kinds)))[numbers.ravel()]
    return classes


def probe_score(embeddings: np.ndarray, classes: np.ndarray, cell_ids: np.ndarray, seed: int) -> float:
    """Macro-F1 of a probe on the half of the cells of each class that it was not fitted on.

    Args:
        embeddings: (n_cells, size).
        classes: (n_cells,) their classes; cells of -1 are left out.
        cell_ids: (n_cells,) uint64 stored as int64, by which the halves are drawn.
        seed: seed of the draw.
    """
    keys = cell_keys(cell_ids.view(np.uint64), seed, 0)
    order = np.lexsort((keys, classes))
    order = order[classes[order] >= 0]
    numbers = np.unique(classes[order], return_inverse=True)[1]
    fits = (np.arange(len(order)) - np.searchsorted(numbers, numbers)) % 2 == 0
    n_classes = numbers[-1] + 1
    # one strength for all evaluations, so that they compare embeddings
    fitted = fit_probe(embeddings[order[fits]].astype(np.float64), numbers[fits], n_classes, STRENGTHS[0])
    predicted = fitted.log_probabilities(embeddings[order[~fits]])
    return classification_metrics(predicted, numbers[~fits])["macro_f1"]
