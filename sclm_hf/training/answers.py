"""What the answers of a language model are worth on cells held out: its temperature, scores, and partners."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import log_softmax

from ..corpora.cell_corpus import CellCorpus
from ..opening.loading import default_device
from ..text.candidates import fit_temperature
from ..text.closed_set import CANDIDATES_FILE, Candidates
from .arguments import TrainingConfig
from .counts import in_order
from .loop import TrainingResult
from .partners import Rivals, weigh_held_out
from .validation import classification_metrics

if TYPE_CHECKING:
    from ..text.annotator import TextAnnotator
    from ..text.cell_text_annotator import CellTextAnnotator

_FOLDS = 5
"""Parts of the cells held out; the log-loss of each is told at the temperature of the others."""


def judged(
    result: TrainingResult,
    annotator: "TextAnnotator | CellTextAnnotator",
    candidates: Candidates,
    eval_corpus: CellCorpus,
    rivals: Rivals | None,
    config: TrainingConfig,
    save: Callable[[Candidates, Path], object] = Candidates.save,
) -> TrainingResult:
    """Fit the temperature of the answers, save it, weigh them with the baselines, and add all scores to the result.

    Args:
        result: the training.
        annotator: the trained model.
        candidates: its question and labels, of temperature 1.
        eval_corpus: cells held out.
        rivals: baselines on the cells to train on; None leaves them out.
        config: batch size, and whether an accelerator may be used.
        save: writes candidates into a folder.
    """
    scores, labels = answers_in_order(annotator, eval_corpus, config)
    temperature = fit_temperature(scores, labels)
    candidates = dataclasses.replace(candidates, temperature=temperature)
    for folder in (result.output_dir, result.output_dir / "adapter"):
        if (folder / CANDIDATES_FILE).exists():
            save(candidates, folder)
    metrics = classification_metrics(scores, labels)
    metrics |= {"log_loss": log_loss(scores, labels), "temperature": temperature}
    found = {f"eval_{name}": value for name, value in metrics.items()}
    comparison = None
    if rivals is not None:
        chosen = "The temperature of its answers" + (" and the checkpoint were" if result.evaluation_chose else " was")
        comparison = weigh_held_out(
            rivals,
            log_softmax(scores / temperature, axis=1),
            eval_corpus,
            result.output_dir,
            tested_on=f"{len(labels):,} cells held out",
            also_chosen=chosen,
        )
    return dataclasses.replace(result, metrics=result.metrics | found, comparison=comparison)


@torch.inference_mode()
def answers_in_order(
    annotator: "TextAnnotator | CellTextAnnotator", corpus: CellCorpus, config: TrainingConfig
) -> tuple[np.ndarray, np.ndarray]:
    """(cells, labels) log-likelihoods of answers and (cells,) right labels, in the order of `counts.rows_in_order`."""
    annotator.eval().to("cpu" if config.use_cpu else default_device())
    scores, labels = [], []
    for batch in in_order(corpus).loader(config.per_device_eval_batch_size):
        inputs = {name: values for name, values in batch.items() if name in corpus.processor.model_input_names}
        scores.append(annotator(**inputs).logits.float().cpu().numpy())
        labels.append(batch["labels"].numpy())
    return np.concatenate(scores), np.concatenate(labels)


def log_loss(scores: np.ndarray, labels: np.ndarray) -> float:
    """The log-loss of cells at the temperature that the other fifths of them ask for; of a cell alone, at 1."""
    folds, right = np.arange(len(labels)) % _FOLDS, np.empty(len(labels))
    for fold in np.unique(folds):
        own = folds == fold
        temperature = 1.0 if own.all() else fit_temperature(scores[~own], labels[~own])
        right[own] = np.take_along_axis(log_softmax(scores[own] / temperature, axis=1), labels[own, None], 1)[:, 0]
    return float(-right.mean())
