"""`finetune --head probe`: logistic regression on the embeddings of a model that stays as it is."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..corpora.cell_corpus import CellCorpus
from ..corpora.labels.ontology import Ontology, available
from ..errors import ConfigurationError
from ..evaluation.baselines.linear import logistic_regression
from ..files import sole_writer
from ..logging import get_logger, progress_bar
from ..modeling.common.cpu import fast_on_cpu
from ..modeling.common.probe import with_meanings
from ..opening.inference import independent_cells
from ..opening.kinds import inner_model
from ..opening.loading import default_device
from .arguments import TrainingConfig
from .callbacks import LossLog
from .checkpoints import explained
from .counts import ABSENT, in_order
from .loop import TrainingResult
from .partners import Rivals, folds, weigh_out_of_fold
from .saving import note_batches, save_trained
from .steps import started_processes
from .validation import classification_metrics

logger = get_logger(__name__)

STRENGTHS = (0.1, 0.01, 1.0)
"""Values of scikit-learn's C that cross-validation chooses among; of equally good ones the first."""

SMALLEST_DEVIATION = 1e-6
"""Features that vary less are not scaled: what rounding leaves of a constant says nothing."""


class FittedProbe(NamedTuple):
    """A logistic regression on standardised features.

    Attributes:
        mean, deviation: (n_features,) of the cells that it was fitted on.
        weight: (n_labels, n_features).
        bias: (n_labels,).
        meanings: (n_labels, n_leaves) which leaves labels mean, see `modeling.common.probe.with_meanings`.
    """

    mean: np.ndarray
    deviation: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    meanings: np.ndarray

    def log_probabilities(self, features: np.ndarray) -> np.ndarray:
        """(n_cells, n_labels) for (n_cells, n_features) features."""
        logits = (features - self.mean) / self.deviation @ self.weight.T + self.bias
        given = (torch.from_numpy(values) for values in (logits, features, self.meanings))
        logits = with_meanings(*given).numpy()
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def train_probe(
    model: PreTrainedModel,
    corpus: CellCorpus,
    collator: Any,
    config: TrainingConfig,
    *,
    eval_corpus: CellCorpus | None = None,
    processor: Any = None,
    rivals: Rivals | None = None,
    ontology: str | None = None,
) -> TrainingResult:
    """Fit the probe of `model` on the cells of `corpus` and save the model to `config.output_dir`.

    Each cell is run once. How strong the penalty is, whether what labels mean has a say, and how much the model counts
    beside its rivals, is chosen by cross-validation on the cells of `corpus`.

    Args:
        model: a model that `opening.classifiers.open_probe` opened; changed in place.
        corpus: the cells, with labels.
        collator: a `CellClassificationCollator`.
        config: only the folder, the batch size, the workers, the seed and `use_cpu` matter.
        eval_corpus: cells to evaluate on.
        processor: saved beside the model.
        rivals: baselines on the same cells; None leaves them out.
        ontology: what labels mean, in terms of the classes that the checkpoint tells apart; None = all ontologies of
            the package.

    Raises:
        ConfigurationError: several processes were started, or each label has one cell.
        CheckpointError: the model cannot be written.
    """
    if started_processes() > 1:
        raise ConfigurationError("A probe (`head=probe`) runs each cell once, in one process: start a single one.")
    output_dir, n_labels = Path(config.output_dir), model.config.num_labels
    with sole_writer(output_dir):
        note_batches(model, corpus.batch_names)
        features, labels = read_features(model, corpus, collator, config)
        splits = folds(labels, seed=config.seed)
        meanings = read_meanings(model, corpus.label_names, ontology)
        strength, heeded, tested = choose_strength(features, labels, n_labels, splits, meanings)
        fitted = fit_probe(features, labels, n_labels, strength, heeded)
        put_into(model, fitted)
        record: dict[str, Any] = {"step": 0, "epoch": 1, "C": strength, "meanings": bool(heeded.any())}
        predicted = truth = None
        if eval_corpus is not None:
            evaluated, truth = read_features(model, eval_corpus, collator, config)
            predicted = fitted.log_probabilities(evaluated)
            scores = classification_metrics(predicted, truth, corpus.label_names)
            scores = {"loss": -_likelihood(predicted, truth), **scores}
            record |= {f"eval_{name}": value for name, value in scores.items()}
        with explained(output_dir):
            save_trained(model, output_dir, processor)
        log = LossLog(output_dir / "training_log.jsonl")
        log.rewind(0)
        log.append(record)
        comparison = None
        if rivals is not None:
            evaluated = None if eval_corpus is None else (eval_corpus, predicted, truth)
            comparison = weigh_out_of_fold(
                rivals,
                tested,
                splits,
                output_dir,
                evaluated=evaluated,
                also_chosen="The penalty of the probe, and whether what labels mean has a say, were",
            )
    metrics = {name: value for name, value in record.items() if name.startswith("eval_")}
    return TrainingResult(output_dir, 0, None, metrics, [record], comparison=comparison)


def read_features(
    model: PreTrainedModel, corpus: CellCorpus, collator: Any, config: TrainingConfig
) -> tuple[np.ndarray, np.ndarray]:
    """What the probe of a model reads of each cell, in the order of [`~counts.rows_in_order`].

    Args:
        model: a model with a probe.
        corpus: the cells, with labels.
        collator: a `CellClassificationCollator`.
        config: batch size, workers, and whether an accelerator may be used.

    Returns:
        (n_cells, n_features) float64 features and (n_cells,) int64 labels.
    """
    features: list[np.ndarray] = []
    hook = model.probe.register_forward_pre_hook(lambda _, given: features.append(given[0].double().cpu().numpy()))
    labels = [labels for labels, _ in batches_in_order(model, corpus, collator, config, "embedding")]
    hook.remove()
    return np.concatenate(features), np.concatenate(labels)


def predict_log_probabilities(
    model: nn.Module, corpus: CellCorpus, collator: Any, config: TrainingConfig
) -> np.ndarray:
    """(n_cells, n_labels) float64 log-probabilities of labels, in the order of [`~counts.rows_in_order`].

    Args:
        model: a classifier, or a PEFT model around one.
        corpus, collator, config: as for [`read_features`].
    """
    found = batches_in_order(model, corpus, collator, config, "evaluating")
    return np.concatenate([outputs.logits.double().log_softmax(dim=-1).cpu().numpy() for _, outputs in found])


def batches_in_order(
    model: nn.Module, corpus: CellCorpus, collator: Any, config: TrainingConfig, description: str
) -> Iterator[tuple[np.ndarray, Any]]:
    """Run each cell once, as `annotate` does, in the order of [`~counts.rows_in_order`].

    Returns:
        An iterator over (labels, outputs of the model), batch by batch.
    """
    model.to("cpu" if config.use_cpu else default_device())
    corpus = in_order(corpus)
    # a batch of samples takes no more of their cells than its size says
    size = len(corpus) if corpus.samples else config.per_device_eval_batch_size
    loader = corpus.loader(size, collator=collator, num_workers=config.dataloader_num_workers)
    bar = progress_bar(desc=description, total=len(corpus), unit="cell")
    with bar, independent_cells(inner_model(model)), torch.inference_mode(), fast_on_cpu(inner_model(model)):
        for batch in loader:
            labels = batch.pop("labels").numpy()
            yield labels, model(**{name: values.to(inner_model(model).device) for name, values in batch.items()})
            bar.update(len(labels))


def read_meanings(model: PreTrainedModel, label_names: Sequence[str], ontology: str | None) -> np.ndarray:
    """(n_labels, n_leaves) float64: 1 where a label means a class that the checkpoint told apart; says which do.

    Raises:
        ConfigurationError: there is no such ontology.
    """
    leaves = model.config.probe_leaves
    if not leaves:
        return np.zeros((len(label_names), 0))
    found = Ontology.load(ontology or available()).meanings(label_names, leaves)
    meant = {name: np.array(leaves)[row] for name, row in zip(label_names, found, strict=True) if row.any()}
    if meant:
        told = "; ".join(f"{name} ({', '.join(some)})" for name, some in meant.items())
        logger.info("Labels that the checkpoint knows: %s.", told)
    return found.astype(np.float64)


def choose_strength(
    features: np.ndarray,
    labels: np.ndarray,
    n_labels: int,
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    meanings: np.ndarray | None = None,
) -> tuple[float, np.ndarray, np.ndarray]:
    """The strength whose log-probabilities of the true labels are highest for cells that were not fitted on.

    Args:
        features, labels, n_labels, meanings: as for [`fit_probe`]; whether `meanings` have a say is chosen too.
        splits: cells to fit on and cells to test on.

    Returns:
        C; the `meanings` to take, all 0 where they should have no say; and (n_tested, n_labels) log-probabilities of
        the tested cells of all splits, one after the other.
    """
    truth = np.concatenate([labels[test] for _, test in splits])
    meanings = np.zeros((n_labels, 0)) if meanings is None else meanings
    found = {}
    for strength in STRENGTHS:
        fitted = [fit_probe(features[train], labels[train], n_labels, strength) for train, _ in splits]
        for heeded in (meanings, np.zeros_like(meanings)) if meanings.any() else (meanings,):
            ones = [one._replace(meanings=heeded) for one in fitted]
            tested = zip(ones, splits, strict=True)
            predicted = np.concatenate([one.log_probabilities(features[test]) for one, (_, test) in tested])
            found[strength, bool(heeded.any())] = heeded, predicted
    best = max(found, key=lambda one: _likelihood(found[one][1], truth))
    return best[0], *found[best]


def fit_probe(
    features: np.ndarray, labels: np.ndarray, n_labels: int, strength: float, meanings: np.ndarray | None = None
) -> FittedProbe:
    """Multinomial logistic regression with an L2 penalty on standardised features.

    Args:
        features: (n_cells, n_features).
        labels: (n_cells,) numbers of labels, of at least two.
        n_labels: number of labels; those of no cell get the logit `ABSENT`.
        strength: scikit-learn's C.
        meanings: (n_labels, n_leaves) which leaves labels mean; None = none. The regression does not heed them.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.where(deviation > SMALLEST_DEVIATION, deviation, 1.0)
    classes, rows, intercepts = logistic_regression((features - mean) / deviation, labels, strength)
    weight, bias = np.zeros((n_labels, features.shape[1])), np.full(n_labels, ABSENT)
    weight[classes], bias[classes] = rows.T, intercepts
    meanings = np.zeros((n_labels, 0)) if meanings is None else meanings
    return FittedProbe(mean, deviation, weight, bias, meanings)


def put_into(model: PreTrainedModel, fitted: FittedProbe) -> None:
    """Give the probe of a model its numbers."""
    probe = model.probe
    linear = probe.linear
    places = (probe.mean, probe.deviation, linear.weight.data, linear.bias.data, probe.meanings)
    for place, values in zip(places, fitted, strict=True):
        place.copy_(torch.from_numpy(values))


def _likelihood(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean log-probability of the labels."""
    return float(predicted[np.arange(len(labels)), labels].mean())
