"""Fine-tuning for integration: what `sclm-hf integrate --mode fine_tune` runs."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse
from torch import nn
from transformers import PreTrainedModel

from ..adapters.lora import add_lora
from ..corpora.cell_corpus import CellCorpus
from ..corpora.order.even_splits import hold_out_evenly
from ..errors import ConfigurationError, require
from ..evaluation.collapse import MOST_CELLS
from ..evaluation.integration.neighbours import (
    BIOLOGY_WEIGHT,
    batches_nearby,
    labels_nearby,
    mean_share,
    standard_error,
)
from ..evaluation.integration.representations import clusters_within
from ..modeling.common.losses import IGNORE
from ..objectives.integration import BatchIntegration, IntegrationCollator, IntegrationWeights
from ..sources.cell_source import CellSource
from ..sources.survey import row_blocks
from ..tokenization.processing_cell import CellProcessor
from .arguments import TrainingConfig
from .checkpoints import TrainingState
from .counts import rows_in_order
from .embedding_watch import EVALUATIONS_IN_A_ROW, embed_corpus
from .loop import TrainingResult, train

accelerate = require("accelerate", extra="train")

HELD_OUT = 0.2
"""Share of the cells of each batch, and of each label in it, that are not trained on."""

MOST_SAMPLES = 8
"""So many samples make a step, where cells come in samples, so that it sees several batches."""

METRIC, ERROR = "integration_score", "integration_score_error"
"""Names of the score and of its standard error over the cells held out."""


@dataclass(frozen=True)
class IntegrationCells:
    """The cells to integrate.

    Attributes:
        source: where they are read.
        batch_column: column of `obs` with their batches.
        batch_names: the batches, in the order of their numbers.
        batches: (n_cells,) number of the batch of each.
        label_names: the labels, in the order of their numbers; empty without labels.
        labels: (n_cells,) number of the label of each, -1 = none; None without labels.
        species: of the cells.
    """

    source: CellSource
    batch_column: str
    batch_names: list[str]
    batches: np.ndarray
    label_names: list[str] = field(default_factory=list)
    labels: np.ndarray | None = None
    species: str | None = None


class IntegrationQuality(NamedTuple):
    """What an embedding is worth for integration, by the nearest cells.

    Attributes:
        batch_mixing: see [`sclm_hf.evaluation.integration.neighbours.batch_mixing`].
        label_purity: see [`sclm_hf.evaluation.integration.neighbours.label_purity`].
        is_lost: the purity has fallen further than is allowed.
        error: standard error of the score over cells, as if mixing and purity erred independently.
    """

    batch_mixing: float
    label_purity: float
    is_lost: bool = False
    error: float = 0.0

    @property
    def score(self) -> float:
        """Both, weighed as in scIB; below 0 where biology is lost, so that no such checkpoint is the best one."""
        return (1 - BIOLOGY_WEIGHT) * self.batch_mixing + BIOLOGY_WEIGHT * self.label_purity - self.is_lost

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers, by the names that an evaluation gives them."""
        return {
            "batch_mixing": self.batch_mixing,
            "label_purity": self.label_purity,
            METRIC: self.score,
            ERROR: self.error,
        }


class IntegrationWatch:
    """Says on cells that are not trained on how well batches mix, and ends a run in which biology is being lost.

    Without labels, clusters stand for them that the counts of each batch have by themselves, and cells are compared
    with those of their batch alone.

    Args:
        corpus: the cells, with batches and, unless `within_batches`, with labels.
        batch_size: cells per forward pass; of samples, the most cells of each.
        most_lost: how far the purity of labels may fall below that of the model before the first step.
        within_batches: labels are those of the cells of a batch among themselves.
    """

    finding = "biology was being lost"

    def __init__(self, corpus: CellCorpus, *, batch_size: int, most_lost: float, within_batches: bool = False) -> None:
        self.corpus, self.batch_size = corpus, batch_size
        self.most_lost, self.within_batches = most_lost, within_batches

    @property
    def names(self) -> set[str]:
        """What it measures."""
        return set(IntegrationQuality(0, 0).metrics)

    def measure(self, model: nn.Module) -> IntegrationQuality:
        """What the embeddings are worth that a model in training now gives.

        Raises:
            SclmError: an embedding is not finite.
            ConfigurationError: the cells held out do not tell.
        """
        embedding, carried = embed_corpus(model, self.corpus, self.batch_size)
        batches, labels = (carried[name].astype(np.int64) for name in ("batch_labels", "labels"))
        within = batches if self.within_batches else None
        mixed = batches_nearby(embedding, batches, None if self.within_batches else labels)
        pure = labels_nearby(embedding, labels, within)
        mixing, purity = mean_share(mixed), mean_share(pure)
        if not np.isfinite([mixing, purity]).all():
            raise ConfigurationError(
                "The cells held out do not tell whether batches mix and cell types stay apart: no label has cells of "
                "two batches, or none but one has two cells. Give more cells, labels that batches share, or leave out "
                "`label_key` (`--label-key`)."
            )
        error = np.hypot((1 - BIOLOGY_WEIGHT) * standard_error(mixed), BIOLOGY_WEIGHT * standard_error(pure))
        return IntegrationQuality(mixing, purity, error=float(error))

    def note(self, state: TrainingState, quality: IntegrationQuality) -> IntegrationQuality:
        """Compare a measurement with the first one, in `state`, which is changed in place; returns what is told."""
        if state.first_embedding is None:
            state.first_embedding = quality._asdict()
            return quality
        lost = quality.label_purity < state.first_embedding["label_purity"] - self.most_lost
        quality = quality._replace(is_lost=lost)
        state.last_embedding = quality._asdict()
        state.collapsed_evaluations = state.collapsed_evaluations + 1 if lost else 0
        return quality

    def has_collapsed(self, state: TrainingState) -> bool:
        """Whether a run is to end because biology is being lost."""
        return state.collapsed_evaluations >= EVALUATIONS_IN_A_ROW

    def advice(self, state: TrainingState) -> str:
        """What to do about biology that is being lost, in a sentence."""
        first, last = (one["label_purity"] for one in (state.first_embedding, state.last_embedding))
        what = "clusters of each batch" if self.within_batches else "labels"
        return (
            f"Training stopped because biology was being lost: on cells held out, the purity of {what} among the "
            f"nearest cells fell from {first:.3f} to {last:.3f}. The checkpoint with the best score before that is "
            "kept. Lower `learning_rate` or `adversary_weight` (`--learning-rate`, `--adversary-weight`), or allow "
            "more with `most_lost` (`--most-lost`)."
        )


def fine_tune(
    model: PreTrainedModel,
    processor: CellProcessor,
    cells: IntegrationCells,
    config: TrainingConfig,
    *,
    head: Literal["lora", "full"] = "lora",
    weights: IntegrationWeights | None = None,
    most_lost: float = 0.05,
) -> tuple[nn.Module, TrainingResult, np.ndarray]:
    """Fine-tune an encoder so that batches mix in its embedding, and save it in `config.output_dir`.

    Args:
        model: the encoder; changed in place.
        processor: of the cells.
        cells: the cells, a fifth of which are held out and choose the checkpoint.
        config: settings of the loop; `metric_for_best_model` is `"integration_score"`.
        head: what is trained of the encoder: a LoRA, or all of it.
        weights: what each loss counts; None = as by default.
        most_lost: see [`IntegrationWatch`].

    Returns:
        The trained encoder, with PEFT around it where a LoRA was trained; what the run gave; and (n_cells,) bool,
        which cells it was trained on.

    Raises:
        ConfigurationError: the model cannot be adapted, or the cells held out tell nothing.
        SclmError: the loss or the weights are no longer finite numbers.
    """
    accelerate.utils.set_seed(config.seed)
    corpus, held_out = open_corpora(cells, processor, seed=config.seed)
    special = tuple(processor.tokenizer.gene_vocabulary.special_tokens.values())
    encoder = add_lora(model) if head == "lora" else model
    module = BatchIntegration(
        encoder, len(cells.batch_names), len(cells.label_names), weights or IntegrationWeights(), special
    )
    watch = IntegrationWatch(
        held_out,
        batch_size=config.per_device_eval_batch_size,
        most_lost=most_lost,
        within_batches=cells.labels is None,
    )
    collator = IntegrationCollator.from_processor(processor, seed=config.seed)
    result = train(
        module, corpus, collator, config, eval_corpus=held_out, processor=processor, watch=watch, is_last=False
    )
    trained_on = np.zeros(cells.source.n_cells, bool)
    trained_on[corpus.rows_at(0, np.arange(len(corpus)))] = True
    return encoder.eval(), result, trained_on


def open_corpora(cells: IntegrationCells, processor: CellProcessor, *, seed: int) -> tuple[CellCorpus, CellCorpus]:
    """The cells to train on, and at most `MOST_CELLS` that are held out, with labels or clusters in their place."""
    source, labels = cells.source, cells.labels
    groups = cells.batches if labels is None else cells.batches * (len(cells.label_names) + 1) + labels
    everything = np.arange(source.n_cells)
    masks, _ = hold_out_evenly([source], [everything], [groups], HELD_OUT, seed, leave_out=source.column_names())
    is_held_out = masks[source.name]
    options: dict[str, Any] = {
        "batch_column": cells.batch_column,
        "batch_names": cells.batch_names,
        "species": cells.species,
        "seed": seed,
    }
    sources = {source.name: source}
    corpus = CellCorpus(sources, processor, rows={source.name: ~is_held_out}, **options)
    held_out = CellCorpus(sources, processor, rows={source.name: is_held_out}, shuffle=False, **options)
    held_out = held_out.drawn(MOST_CELLS)
    if labels is None:
        _number(held_out, clusters_of(held_out, source.n_cells, cells.batches, seed))
    else:
        for one in (corpus, held_out):
            _number(one, np.where(labels < 0, IGNORE, labels))
    return corpus, held_out


def _number(corpus: CellCorpus, labels: np.ndarray) -> None:
    """Hand out labels of the cells of the one source, given for all of its rows."""
    corpus.numbered["labels"] = [labels[corpus.rows_at(0, np.arange(corpus.sizes[0]))].astype(np.int64)]


def clusters_of(corpus: CellCorpus, n_cells: int, batches: np.ndarray, seed: int) -> np.ndarray:
    """(n_cells,) clusters of the cells of a corpus of one source, batch by batch; `IGNORE` for all other cells."""
    rows = np.sort(np.concatenate([rows for _, rows in rows_in_order(corpus)]))
    source = corpus.opened(0)
    counts = scipy.sparse.vstack([source.read(rows[block]).astype(np.float32) for block in row_blocks(len(rows))])
    clusters = np.full(n_cells, IGNORE)
    clusters[rows] = clusters_within(counts.tocsr(), batches[rows], seed=seed)
    return clusters
