"""`finetune --head probe`: logistic regression on the embeddings of a model that stays as it is."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import get_int_from_env
from transformers import PreTrainedModel

from ..corpora.cell_corpus import CellCorpus
from ..errors import ConfigurationError, require
from ..files import sole_writer
from ..logging import progress_bar
from ..modeling.common.cpu import fast_on_cpu
from ..opening.inference import independent_cells
from ..opening.loading import default_device
from .arguments import TrainingConfig
from .callbacks import LossLog
from .checkpoints import explained
from .loop import TrainingResult
from .saving import note_batches, save_trained
from .validation import classification_metrics

STRENGTHS = (0.1, 0.01, 1.0)
"""Values of scikit-learn's C that cross-validation chooses among; of equally good ones the first."""

MOST_FOLDS = 5
"""Folds of the cross-validation; fewer where a label has fewer cells."""

SMALLEST_DEVIATION = 1e-6
"""Features that vary less are not scaled: what rounding leaves of a constant says nothing."""

ABSENT = -1e4
"""Logit of a label that no cell to train on has."""


class FittedProbe(NamedTuple):
    """A logistic regression on standardised features.

    Attributes:
        mean, deviation: (n_features,) of the cells that it was fitted on.
        weight: (n_labels, n_features).
        bias: (n_labels,).
    """

    mean: np.ndarray
    deviation: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def log_probabilities(self, features: np.ndarray) -> np.ndarray:
        """(n_cells, n_labels) for (n_cells, n_features) features."""
        logits = (features - self.mean) / self.deviation @ self.weight.T + self.bias
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def train_probe(
    model: PreTrainedModel,
    corpus: CellCorpus,
    collator: Any,
    config: TrainingConfig,
    *,
    eval_corpus: CellCorpus | None = None,
    processor: Any = None,
) -> TrainingResult:
    """Fit the probe of `model` on the cells of `corpus` and save the model to `config.output_dir`.

    Each cell is run once. How strong the penalty is, cross-validation on the cells of `corpus` decides.

    Args:
        model: a model that `opening.classifiers.open_probe` opened; changed in place.
        corpus: the cells, with labels.
        collator: a `CellClassificationCollator`.
        config: only the folder, the batch size, the workers, the seed and `use_cpu` matter.
        eval_corpus: cells to evaluate on.
        processor: saved beside the model.

    Raises:
        ConfigurationError: several processes were started.
        CheckpointError: the model cannot be written.
    """
    if get_int_from_env(["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"], 1) > 1:
        raise ConfigurationError("A probe (`head=probe`) runs each cell once, in one process: start a single one.")
    output_dir = Path(config.output_dir)
    with sole_writer(output_dir):
        note_batches(model, corpus.batch_names)
        features, labels = read_features(model, corpus, collator, config)
        strength, _ = choose_strength(features, labels, model.config.num_labels, seed=config.seed)
        fitted = fit_probe(features, labels, model.config.num_labels, strength)
        put_into(model, fitted)
        record = {"step": 0, "epoch": 1, "C": strength}
        if eval_corpus is not None:
            evaluated = score_probe(fitted, *read_features(model, eval_corpus, collator, config))
            record |= {f"eval_{name}": value for name, value in evaluated.items()}
        with explained(output_dir):
            save_trained(model, output_dir, processor)
        log = LossLog(output_dir / "training_log.jsonl")
        log.rewind(0)
        log.append(record)
    metrics = {name: value for name, value in record.items() if name.startswith("eval_")}
    return TrainingResult(output_dir, 0, None, metrics, [record])


def read_features(
    model: PreTrainedModel, corpus: CellCorpus, collator: Any, config: TrainingConfig
) -> tuple[np.ndarray, np.ndarray]:
    """What the probe of a model reads of each cell, in the order of [`rows_in_order`].

    Args:
        model: a model with a probe.
        corpus: the cells, with labels.
        collator: a `CellClassificationCollator`.
        config: batch size, workers, and whether an accelerator may be used.

    Returns:
        (n_cells, n_features) float64 features and (n_cells,) int64 labels.
    """
    model.to("cpu" if config.use_cpu else default_device())
    corpus = in_order(corpus)
    # a batch of samples takes no more of their cells than its size says
    size = len(corpus) if corpus.samples else config.per_device_eval_batch_size
    loader = corpus.loader(size, collator=collator, num_workers=config.dataloader_num_workers)
    features: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    hook = model.probe.register_forward_pre_hook(lambda _, given: features.append(given[0].double().cpu().numpy()))
    bar = progress_bar(desc="embedding", total=len(corpus), unit="cell")
    with bar, independent_cells(model), torch.inference_mode(), fast_on_cpu(model):
        for batch in loader:
            labels.append(batch.pop("labels").numpy())
            model(**{name: values.to(model.device) for name, values in batch.items()})
            bar.update(len(labels[-1]))
    hook.remove()
    return np.concatenate(features), np.concatenate(labels)


def in_order(corpus: CellCorpus) -> CellCorpus:
    """The same cells, one after the other."""
    corpus = copy.copy(corpus)
    corpus.shuffle = corpus.group_by_length = False
    return corpus


def choose_strength(
    features: np.ndarray, labels: np.ndarray, n_labels: int, *, seed: int = 0
) -> tuple[float, np.ndarray]:
    """The strength whose log-probabilities of the true labels are highest out of fold, and its predictions there.

    Returns:
        C, and (n_cells, n_labels) log-probabilities by models that did not see the cell.
    """
    splits = folds(labels, seed=seed)
    found = {}
    for strength in STRENGTHS:
        predicted = np.empty((len(labels), n_labels))
        for train, test in splits:
            fitted = fit_probe(features[train], labels[train], n_labels, strength)
            predicted[test] = fitted.log_probabilities(features[test])
        found[strength] = predicted
    likelihood = {strength: _likelihood(predicted, labels) for strength, predicted in found.items()}
    best = max(STRENGTHS, key=likelihood.get)
    return best, found[best]


def folds(labels: np.ndarray, *, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cells to fit on and to test on, each cell tested once; labels are divided evenly."""
    selection = require("sklearn.model_selection", extra="evaluation")
    counts = np.unique(labels, return_counts=True)[1]
    n_folds = int(np.clip(counts.min(), 2, MOST_FOLDS))
    if counts.max() < n_folds:
        raise ConfigurationError("Each label has one cell: a probe is cross-validated, and needs two of at least one.")
    splitter = selection.StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # a label with one cell is tested by a model that does not know it
        warnings.filterwarnings("ignore", "The least populated class")
        return list(splitter.split(labels, labels))


def fit_probe(features: np.ndarray, labels: np.ndarray, n_labels: int, strength: float) -> FittedProbe:
    """Multinomial logistic regression with an L2 penalty on standardised features.

    Args:
        features: (n_cells, n_features).
        labels: (n_cells,) numbers of labels, of at least two.
        n_labels: number of labels; those of no cell get the logit `ABSENT`.
        strength: scikit-learn's C.
    """
    linear_model = require("sklearn.linear_model", extra="evaluation")
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.where(deviation > SMALLEST_DEVIATION, deviation, 1.0)
    classifier = linear_model.LogisticRegression(C=strength, max_iter=5000)
    classifier.fit((features - mean) / deviation, labels)
    weight, bias = np.zeros((n_labels, features.shape[1])), np.full(n_labels, ABSENT)
    rows, intercepts = classifier.coef_, classifier.intercept_
    if len(classifier.classes_) == 2:
        # scikit-learn keeps the difference of the two
        rows, intercepts = np.concatenate([-rows, rows]) / 2, np.concatenate([-intercepts, intercepts]) / 2
    weight[classifier.classes_], bias[classifier.classes_] = rows, intercepts
    return FittedProbe(mean, deviation, weight, bias)


def put_into(model: PreTrainedModel, fitted: FittedProbe) -> None:
    """Give the probe of a model its numbers."""
    probe = model.probe
    places: Sequence[torch.Tensor] = (probe.mean, probe.deviation, probe.linear.weight.data, probe.linear.bias.data)
    for place, values in zip(places, fitted, strict=True):
        place.copy_(torch.from_numpy(values))


def score_probe(fitted: FittedProbe, features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The loss and the metrics of cells, as evaluation while training gives them."""
    predicted = fitted.log_probabilities(features)
    return {"loss": -_likelihood(predicted, labels), **classification_metrics(predicted, labels)}


def _likelihood(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean log-probability of the labels."""
    return float(predicted[np.arange(len(labels)), labels].mean())
