"""Fine-tuning of the model that embeds, before the cells are embedded."""

import copy
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...logging import warn
from ...objectives.integration import IntegrationWeights
from ...opening.kinds import AUTO_CLASSES
from ...opening.weights import open_model
from ...training.arguments import TrainingConfig
from ...training.integration import ERROR, METRIC, MOST_SAMPLES, IntegrationCells, fine_tune
from .batches import Column

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ...opening.loading import LoadedModel
    from ..integrate import IntegrateSettings
    from ..running.prepared_cells import PreparedCells

EVALUATIONS = 10
"""Evaluations in a run."""

CLEAR_GAIN = 2.0
"""Standard errors of the score by which fine-tuning must better it; less is chance, the best step being chosen."""


def fine_tuned(
    loaded: "LoadedModel",
    cells: "PreparedCells",
    batches: Column,
    labels: Column | None,
    settings: "IntegrateSettings",
) -> "tuple[LoadedModel | None, dict[str, Any], np.ndarray]":
    """Fine-tune the model on cells.

    Args:
        loaded: the model and its processor; left as it is.
        cells: the cells.
        batches: their batches.
        labels: their labels, or None.
        settings: the settings of the verb.

    Returns:
        The model, None where the one that it started from is better; the facts of the run; and (n_cells,) bool, the
        cells whose labels it was trained on.
    """
    given = IntegrationCells(
        cells.source,
        settings.batch_key,
        batches.names,
        batches.numbers,
        [] if labels is None else labels.names,
        None if labels is None else labels.numbers,
        settings.species,
    )
    with ExitStack() as stack:
        folder = settings.output_model or stack.enter_context(tempfile.TemporaryDirectory(prefix="sclm_hf_"))
        trained, result, trained_on = fine_tune(
            _model(loaded, batches) if settings.dsbn else copy.deepcopy(loaded.model),
            loaded.processor,
            given,
            _config(loaded, settings, Path(folder), len(batches.names)),
            head=settings.head,
            weights=IntegrationWeights(
                expression=settings.expression_weight,
                similarity=settings.similarity_weight,
                similarity_threshold=settings.similarity_threshold,
                adversary=settings.adversary_weight,
                labels=settings.label_weight,
            ),
            most_lost=settings.most_lost,
        )
    evaluations = [record for record in result.history if f"eval_{METRIC}" in record]
    first, kept = evaluations[0], next(one for one in evaluations[::-1] if one["step"] == result.best_step)
    score_before, score, error = first[f"eval_{METRIC}"], kept[f"eval_{METRIC}"], kept[f"eval_{ERROR}"]
    is_better = score > score_before
    _warn_of_no_gain(score_before, score, error)
    facts = {
        "n_steps": result.step,
        "kept_step": kept["step"] if is_better else 0,
        "biology_lost": result.watch_found is not None,
        "gain": score - score_before if is_better else 0.0,
        "standard_error": error,
        "step": np.array([one["step"] for one in evaluations]),
        "batch_mixing": np.array([one["eval_batch_mixing"] for one in evaluations]),
        "label_purity": np.array([one["eval_label_purity"] for one in evaluations]),
    }
    taught = np.zeros(len(trained_on), bool) if labels is None or not is_better else trained_on & (labels.numbers >= 0)
    return (replace(loaded, model=trained) if is_better else None), facts, taught


def _warn_of_no_gain(before: float, after: float, error: float) -> None:
    """Warn where the score of cells held out is no better than before training, or by no more than chance gives."""
    if after <= before:
        warn(
            f"Fine-tuning made the embedding no better on cells held out (score {before:.3f} before, {after:.3f} at "
            "best): the embedding is that of the model as it was."
        )
    elif after - before < CLEAR_GAIN * error:
        warn(
            f"Fine-tuning gained nothing that can be told from chance: on cells held out the score rose from "
            f"{before:.3f} to {after:.3f}, less than {CLEAR_GAIN:g} of its standard errors ({error:.3f} each). "
            "`mode='zero_shot'` (`--mode zero_shot`) gives as much; more cells tell smaller gains."
        )


def _model(loaded: "LoadedModel", batches: Column) -> "PreTrainedModel":
    """The model with a normalisation for each batch, whose statistics are still to be found."""
    model = open_model(
        loaded.name,
        AUTO_CLASSES["embed"],
        revision=loaded.revision or None,
        dtype=loaded.model.dtype,
        may_lack=("domain_norm",),
        domain_norm="dsbn",
        num_batch_labels=len(batches.names),
        batch_names=batches.names,
    )
    return model.to(loaded.model.device)


def _config(loaded: "LoadedModel", settings: "IntegrateSettings", folder: Path, n_batches: int) -> TrainingConfig:
    in_samples = loaded.processor.context == "sample"
    return TrainingConfig(
        output_dir=str(folder),
        max_steps=settings.n_steps,
        per_device_train_batch_size=settings.train_batch_size,
        per_device_eval_batch_size=2**20 if in_samples else settings.batch_size,
        gradient_accumulation_steps=min(n_batches, MOST_SAMPLES) if in_samples else 1,
        learning_rate=settings.learning_rate,
        warmup_steps=0.1,
        seed=settings.seed,
        eval_steps=max(1, settings.n_steps // EVALUATIONS),
        save_steps=settings.n_steps,
        metric_for_best_model=METRIC,
        resume_from_checkpoint="last" if settings.output_model else None,
        use_cpu=loaded.model.device.type == "cpu",
    )
