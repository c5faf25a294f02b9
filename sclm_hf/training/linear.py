"""Linear models fitted on labelled cells: scikit-learn inside, a model of transformers outside."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.special import log_softmax

from ..corpora.cell_corpus import CellCorpus
from ..errors import ConfigurationError
from ..evaluation.baselines.linear import (
    LinearBaseline,
    PCALogisticRegression,
    ScaledPCALogisticRegression,
    ZScoredLogisticRegression,
    check_memory,
    logistic_regression,
    principal_axes,
)
from ..files import sole_writer
from ..opening.new_models import new_config, new_model, new_tokenizer, processor_class
from ..registry import get_family
from ..tokenization.encodings.zscored import SMALLEST_DEVIATION
from ..tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from ..tokenization.processing_cell import CellProcessor
from .arguments import TrainingConfig
from .callbacks import LossLog
from .checkpoints import explained
from .counts import ABSENT, in_order
from .data import gene_names
from .loop import TrainingResult
from .saving import save_trained
from .settings.data import DataArguments
from .settings.finetune import LINEAR
from .steps import started_processes
from .validation import classification_metrics

if TYPE_CHECKING:
    from transformers import PreTrainedModel


BASELINES = {
    "zscored": ZScoredLogisticRegression,
    "pca": PCALogisticRegression,
    "scaled_pca": ScaledPCALogisticRegression,
}
"""What a linear model can hold: logistic regression on z-scores, or on principal components of centred values or of
z-scores."""


def fit_linear(
    counts: Any,
    labels: Sequence[str],
    genes: Sequence[str],
    *,
    kind: str = "zscored",
    **settings: Any,
) -> tuple["PreTrainedModel", CellProcessor]:
    """Fit a linear model on cells in memory.

    Args:
        counts: (n_cells, n_genes) raw counts, sparse or dense, such as the `X` of an AnnData.
        labels: (n_cells,) label of every cell.
        genes: (n_genes,) their names.
        kind: `"zscored"`, `"pca"` or `"scaled_pca"`.
        **settings: those of the class in `sclm_hf.evaluation.baselines.linear`, such as `C` or `n_components`.

    Returns:
        A `LinearForSequenceClassification` and its processor, which `save_pretrained` saves and `annotate` and `embed`
        take.

    Raises:
        ExpressionError: the counts are not counts, or a cell has none.
        ConfigurationError: there is no such kind; there are fewer than two labels, not one per cell, or more cells
            than memory; a gene occurs twice.
    """
    _check_kind(kind)
    return as_linear_model(BASELINES[kind](**settings).fit(counts, labels), genes)


def as_linear_model(baseline: LinearBaseline, genes: Sequence[str]) -> tuple["PreTrainedModel", CellProcessor]:
    """A fitted baseline as a `LinearForSequenceClassification`, and its processor.

    Args:
        baseline: what was fitted.
        genes: (n_genes,) names of the genes that it was fitted on.

    Raises:
        ConfigurationError: a gene occurs twice, or there is not one name per gene.
    """
    if len(genes) != len(baseline.means):
        raise ConfigurationError(f"`genes` must name the {len(baseline.means):,} genes, got {len(genes):,} names.")
    processor = _processor(
        list(genes),
        gene_means=dict(zip(genes, baseline.means.tolist(), strict=True)),
        gene_deviations=dict(zip(genes, baseline.deviations.tolist(), strict=True)),
    )
    vocabulary = processor.tokenizer.gene_vocabulary
    projection = np.zeros((vocabulary.size, baseline.projection.shape[1]))
    projection[[vocabulary[gene] for gene in genes]] = baseline.projection
    return _model(processor, projection, baseline.weights, baseline.biases, baseline.classes), processor


class LinearFit(NamedTuple):
    """A linear model of z-scores.

    Attributes:
        projection: (n_tokens, size) from the values of the tokens to the embedding of a cell.
        weights: (size, n_labels) from there to the labels.
        biases: (n_labels,).
    """

    projection: np.ndarray
    weights: np.ndarray
    biases: np.ndarray

    def log_probabilities(self, values: np.ndarray) -> np.ndarray:
        """(n_cells, n_labels) for (n_cells, n_tokens) values."""
        return log_softmax(values @ self.projection @ self.weights + self.biases, axis=1)


def fit_corpus(corpus: CellCorpus, *, kind: str = "zscored", **settings: Any) -> "PreTrainedModel":
    """Fit a linear model on the cells of a corpus, as its processor makes z-scores of them.

    What a data set does not measure is 0 for its cells, so files with different genes go together.

    Args:
        corpus: cells with labels, whose processor has the encoding `zscored`.
        kind: `"zscored"`, `"pca"` or `"scaled_pca"`.
        **settings: those of [`fit_values`].

    Returns:
        A `LinearForSequenceClassification` of `corpus.label_names`.

    Raises:
        ConfigurationError: there is no such kind, or there are more cells than memory.
        SclmError: a file cannot be read.
    """
    _check_kind(kind)
    deviations = token_deviations(corpus.processor)
    fitted = fit_values(*read_values(corpus), len(corpus.label_names), deviations, kind=kind, **settings)
    return _model(corpus.processor, *fitted, corpus.label_names)


def fit_values(
    values: np.ndarray,
    labels: np.ndarray,
    n_labels: int,
    deviations: np.ndarray,
    *,
    kind: str = "zscored",
    C: float = 1.0,
    n_components: int = 50,
    n_genes: int = 2000,
    seed: int = 0,
) -> LinearFit:
    """Fit on z-scores in memory.

    Args:
        values: (n_cells, n_tokens) z-scores, as [`read_values`] gives them.
        labels: (n_cells,) numbers of labels, of at least two; labels of no cell get next to no probability.
        n_labels: number of labels.
        deviations: (n_tokens,) by which values were divided. Those of `"pca"` are of values that are not: the most
            variable genes weigh most.
        kind: `"zscored"`, `"pca"` or `"scaled_pca"`.
        C: inverse of the strength of the L2 penalty, as in scikit-learn.
        n_components, n_genes, seed: of the PCA.
    """
    genes = np.flatnonzero(values.any(axis=0))
    projection = np.zeros((values.shape[1], n_labels))
    if kind != "zscored":
        spread = (values[:, genes].var(axis=0)) * deviations[genes] ** 2
        genes = np.sort(genes[np.argsort(-spread, kind="stable")[:n_genes]])
        scales = deviations[genes] if kind == "pca" else np.ones(len(genes))
        axes = scales[:, None] * principal_axes(values[:, genes] * scales, n_components, seed)
        projection = np.zeros((values.shape[1], axes.shape[1]))
        projection[genes] = axes
        classes, found, intercepts = logistic_regression(values[:, genes] @ axes, labels, C)
    else:
        classes, found, intercepts = logistic_regression(values[:, genes], labels, C)
        projection[np.ix_(genes, classes)] = found
        found = np.eye(n_labels)[classes].T
    weights, biases = np.zeros((projection.shape[1], n_labels)), np.full(n_labels, ABSENT)
    weights[:, classes], biases[classes] = found, intercepts
    return LinearFit(projection, weights, biases)


def read_values(corpus: CellCorpus) -> tuple[np.ndarray, np.ndarray]:
    """The z-scores of all cells of a corpus, one after the other.

    Returns:
        (n_cells, n_tokens) float64, 0 where a gene is not measured, and (n_cells,) int64 labels.

    Raises:
        ConfigurationError: they take more memory than is used for this.
    """
    n_tokens = corpus.processor.tokenizer.gene_vocabulary.size
    check_memory(len(corpus), n_tokens)
    values, labels = np.zeros((len(corpus), n_tokens)), np.empty(len(corpus), np.int64)
    start = 0
    for batch in in_order(corpus).batches(256):
        rows = slice(start, start + len(batch["labels"]))
        real = batch["attention_mask"] == 1
        cells = np.nonzero(real)[0]
        values[rows][cells, batch["input_ids"][real]] = batch["expression_values"][real]
        labels[rows] = batch["labels"]
        start = rows.stop
    return values, labels


def token_deviations(processor: CellProcessor) -> np.ndarray:
    """(n_tokens,) what the z-scores of each token were divided by; 1 where there is nothing."""
    vocabulary, encoding = processor.tokenizer.gene_vocabulary, processor.feature_extractor
    deviations = np.ones(vocabulary.size)
    for gene, deviation in encoding.gene_deviations.items():
        if gene in vocabulary:
            deviations[vocabulary[gene]] = max(deviation, SMALLEST_DEVIATION)
    return deviations


def new_processor(data: DataArguments) -> CellProcessor:
    """A processor for a linear model of all genes of `train_files`; means and deviations are still to be stored."""
    return _processor(gene_names(data, get_family(LINEAR).encoding["expects"]))


def train_linear(
    corpus: CellCorpus, config: TrainingConfig, *, eval_corpus: CellCorpus | None = None, kind: str = "zscored"
) -> TrainingResult:
    """Fit a linear model and save it with its processor in `config.output_dir`.

    Args:
        corpus: the cells, with labels, and a processor that has their gene statistics.
        config: only the folder and the seed matter.
        eval_corpus: cells to evaluate on.
        kind: `"zscored"`, `"pca"` or `"scaled_pca"`.

    Raises:
        ConfigurationError: several processes were started, or there are more cells than memory.
        CheckpointError: the model cannot be written.
    """
    if started_processes() > 1:
        raise ConfigurationError("A linear model is fitted in one process: start a single one.")
    output_dir, n_labels = Path(config.output_dir), len(corpus.label_names)
    with sole_writer(output_dir):
        deviations = token_deviations(corpus.processor)
        fitted = fit_values(*read_values(corpus), n_labels, deviations, kind=kind, seed=config.seed)
        record: dict[str, Any] = {"step": 0, "epoch": 1}
        if eval_corpus is not None:
            values, labels = read_values(eval_corpus)
            predicted = fitted.log_probabilities(values)
            scores = {"loss": -float(predicted[np.arange(len(labels)), labels].mean())}
            scores |= classification_metrics(predicted, labels, corpus.label_names)
            record |= {f"eval_{name}": value for name, value in scores.items()}
        with explained(output_dir):
            save_trained(_model(corpus.processor, *fitted, corpus.label_names), output_dir, corpus.processor)
        log = LossLog(output_dir / "training_log.jsonl")
        log.rewind(0)
        log.append(record)
    metrics = {name: value for name, value in record.items() if name.startswith("eval_")}
    return TrainingResult(output_dir, 0, None, metrics, [record])


def _check_kind(kind: str) -> None:
    if kind not in BASELINES:
        raise ConfigurationError(f"`kind` must be one of {', '.join(map(repr, BASELINES))}, got {kind!r}.")


def _processor(genes: list[str], **statistics: Any) -> CellProcessor:
    encoding = ExpressionFeatureExtractor.for_family(LINEAR, **statistics)
    return processor_class(LINEAR)(encoding, new_tokenizer(LINEAR, genes))


def _model(
    processor: CellProcessor,
    projection: np.ndarray,
    weights: np.ndarray,
    biases: np.ndarray,
    label_names: Sequence[str],
) -> "PreTrainedModel":
    names = [str(name) for name in label_names]
    config = new_config(LINEAR, processor, {"hidden_size": projection.shape[1]})
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    model = new_model(config, "annotate").eval()
    with torch.no_grad():
        model.model.genes.weight.copy_(torch.from_numpy(projection))
        model.classifier.weight.copy_(torch.from_numpy(weights.T))
        model.classifier.bias.copy_(torch.from_numpy(biases))
    return model
