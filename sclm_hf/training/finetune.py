"""Fine-tuning for annotation from files to a model folder: what `sclm-hf finetune` runs."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from ..adapters.lora import add_lora
from ..corpora.cell_corpus import CellCorpus
from ..corpora.training_manifest import CHOSEN, TRAINED
from ..errors import ConfigurationError, require
from ..logging import get_logger, warn
from ..objectives.cell_classification import CellClassificationCollator
from ..objectives.collation import CellCollator
from ..objectives.multitask_classification import MultiTaskClassificationCollator
from ..opening.classifiers import open_classifier, open_multitask_classifier, open_probe
from ..opening.processors import load_processor
from ..registry import get_family
from ..tokenization.processing_cell import CellProcessor
from .arguments import TrainingConfig
from .callbacks import watched_metric
from .checkpoints import check_output_dir
from .data import gene_names, open_corpora, store_statistics
from .depth import at_depth
from .label_columns import check_label_column
from .linear import new_processor, train_linear
from .loop import TrainingResult, steps_per_epoch, train
from .manifest import write_manifest
from .multitask import multitask_metrics
from .partners import HELD_OUT, Rivals, weigh_held_out
from .probe import predict_log_probabilities, train_probe
from .settings.data import DataArguments, check_files
from .settings.finetune import BESIDE, HEADS, LINEAR, FinetuneArguments
from .steps import started_processes
from .supervision import weigh_labels
from .validation import ComputeMetrics, classification_metrics

accelerate = require("accelerate", extra="train")

logger = get_logger(__name__)


LEAST_STEPS, LORA_RATE = 300, 1e-3
"""Steps, where one pass takes fewer, and learning rate of a LoRA, unless told otherwise. One pass over the few hundred
labelled cells of a tissue, at the rate for all weights, taught a classifier nothing (`benchmarks/new_tissue.py`)."""


def finetune(data: DataArguments, arguments: FinetuneArguments, config: TrainingConfig) -> TrainingResult:
    """Fine-tune a classifier of cells and save model, adapter and processor in `config.output_dir`.

    Raises:
        SclmError: settings, files and checkpoints do not fit together; the subclass says what is wrong.
    """
    check_output_dir(config)
    check_files(data)
    if config.trackers and (arguments.head == "probe" or arguments.model_name_or_path == LINEAR):
        raise ConfigurationError(
            f"`report_to` names {', '.join(config.trackers)}, which follow a training in steps; a probe "
            "(`head=probe`) and a linear model are fitted at once: leave it out."
        )
    if arguments.model_name_or_path == LINEAR:
        return _finetune_linear(data, arguments, config)
    accelerate.utils.set_seed(config.seed)
    processor = load_processor(arguments.model_name_or_path)
    if arguments.head == "probe" and data.train_weights is not None:
        raise ConfigurationError("A probe (`head=probe`) sees each cell once: leave out `train_weights`.")
    with_rivals = takes_rivals(data, arguments, processor)
    corpus, eval_corpus = open_corpora(
        data,
        processor,
        label_column=arguments.label_column,
        task_columns=arguments.task_columns or (),
        unlabelled=arguments.unlabelled,
        start_from=arguments.model_name_or_path,
        even_share=HELD_OUT if with_rivals and arguments.head != "probe" else 0.0,
        seed=config.seed,
    )
    check_labels(corpus, arguments)
    tested = at_depth(eval_corpus, arguments.target_depth, config.seed)
    rivals = open_rivals(data, corpus, arguments, seed=config.seed) if with_rivals else None
    if arguments.head == "probe":
        model = open_probe(arguments.model_name_or_path, corpus.label_names)
        collator = CellClassificationCollator.from_processor(processor, num_labels=len(corpus.label_names))
        check_metric(config, tested, functools.partial(classification_metrics, label_names=corpus.label_names))
        result = train_probe(
            model,
            at_depth(corpus, arguments.target_depth, config.seed),
            collator,
            config,
            eval_corpus=tested,
            processor=processor,
            rivals=rivals,
            ontology=arguments.ontology,
        )
    else:
        model, collator, compute_metrics = create_classifier(corpus, processor, arguments)
        check_metric(config, tested, compute_metrics)
        model = adapt(model, arguments)
        config = with_defaults(config, corpus, arguments)
        weighed, weighing = weigh_labels(model, corpus, collator, processor, arguments)
        result = train(
            weighed,
            corpus,
            weighing,
            config,
            eval_corpus=tested,
            eval_collator=collator,
            compute_metrics=compute_metrics,
            processor=processor,
        )
        # cells that were named to evaluate on are not for learning
        named = bool(data.eval_files or data.eval_share)
        if rivals is not None and tested is not None and result.is_main_process:
            result = weigh_trained(result, model, collator, tested, rivals, config, fit_on_all=not named)
    # a probe and its partners are chosen on the cells to train on
    weighed = arguments.head != "probe" and result.comparison is not None
    chosen = eval_corpus if weighed or result.evaluation_chose else None
    role = TRAINED if weighed and result.comparison.fitted_after else CHOSEN
    write_manifest(result, corpus, arguments.model_name_or_path, chosen=chosen, role=role)
    return result


def _finetune_linear(data: DataArguments, arguments: FinetuneArguments, config: TrainingConfig) -> TrainingResult:
    """Fit a new linear model, which starts from no other."""
    if arguments.head != HEADS[0]:
        raise ConfigurationError(f"A linear model is fitted as a whole: leave out `head`, got {arguments.head!r}.")
    if arguments.task_columns or data.train_weights is not None:
        raise ConfigurationError(
            "A linear model learns one task and sees each cell once: give one `label_column`, and no `train_weights`."
        )
    corpus, eval_corpus = open_corpora(
        data,
        new_processor(data),
        label_column=arguments.label_column,
        unlabelled=arguments.unlabelled,
        seed=config.seed,
    )
    check_labels(corpus, arguments)
    check_metric(config, eval_corpus, functools.partial(classification_metrics, label_names=corpus.label_names))
    tested = at_depth(eval_corpus, arguments.target_depth, config.seed)
    shallow = at_depth(corpus, arguments.target_depth, config.seed)
    store_statistics(corpus.processor, shallow)
    result = train_linear(shallow, config, eval_corpus=tested)
    write_manifest(result, corpus, None)
    return result


def takes_rivals(data: DataArguments, arguments: FinetuneArguments, processor: CellProcessor) -> bool:
    """Whether linear baselines are fitted beside the model; says why not where they were asked for."""
    if not arguments.partners or not arguments.label_column:
        return False
    expects = processor.feature_extractor.expects
    if expects in ("counts", "any") and data.train_weights is None:
        return True
    why = "with `train_weights`" if data.train_weights is not None else f"for a model that expects {expects!r} data"
    logger.warning("No baselines are fitted beside the model %s: the annotator is the model alone.", why)
    return False


def open_rivals(data: DataArguments, corpus: CellCorpus, arguments: FinetuneArguments, *, seed: int) -> Rivals | None:
    """The linear baselines of the cells to train on, over the genes of all files; None where these hold no counts."""
    genes = gene_names(data, corpus.processor.feature_extractor.expects)
    rivals = Rivals(at_depth(corpus, arguments.target_depth, seed), genes, species=data.species, seed=seed)
    if (rivals.counts.data == np.rint(rivals.counts.data)).all():
        return rivals
    logger.warning("No baselines are fitted beside the model on values that are no counts: it annotates alone.")
    return None


def weigh_trained(
    result: TrainingResult,
    model: nn.Module,
    collator: CellCollator,
    eval_corpus: CellCorpus,
    rivals: Rivals,
    config: TrainingConfig,
    *,
    fit_on_all: bool,
) -> TrainingResult:
    """Weigh a trained model with its rivals on the cells held out, and save those that count as its partners."""
    predicted = predict_log_probabilities(model, eval_corpus, collator, config)
    where = f"{len(predicted):,} cells held out"
    comparison = weigh_held_out(
        rivals,
        predicted,
        eval_corpus,
        result.output_dir,
        tested_on=where,
        also_chosen="The checkpoint of the model was" if result.evaluation_chose else "",
        fit_on_all=fit_on_all,
    )
    return dataclasses.replace(result, comparison=comparison)


def create_classifier(
    corpus: CellCorpus, processor: CellProcessor, arguments: FinetuneArguments
) -> tuple[PreTrainedModel, CellCollator, ComputeMetrics]:
    """The pre-trained model with a classifier of the corpus's labels, or one for each task; its objective and metrics.

    Raises:
        ConfigurationError: the family has no head for several tasks.
    """
    name = arguments.model_name_or_path
    if not arguments.task_columns:
        collator = CellClassificationCollator.from_processor(processor, num_labels=len(corpus.label_names))
        model = open_classifier(name, corpus.label_names, linear_beside=arguments.head == BESIDE)
        return model, collator, functools.partial(classification_metrics, label_names=corpus.label_names)
    num_labels = {task: len(names) for task, names in corpus.task_names.items()}
    model = open_multitask_classifier(name, corpus.task_names, arguments.task_weights)
    collator = MultiTaskClassificationCollator.from_processor(processor, num_labels=num_labels)
    return model, collator, multitask_metrics(corpus.task_names)


def check_metric(config: TrainingConfig, eval_corpus: CellCorpus | None, compute_metrics: ComputeMetrics) -> None:
    """Refuse, before anything is trained, a `metric_for_best_model` that the evaluation will not give.

    Raises:
        ConfigurationError: there is none of this name.
    """
    if eval_corpus is None or config.metric_for_best_model.removeprefix("eval_") == "loss":
        return
    if eval_corpus.task_names:
        names = list(eval_corpus.task_names.values())
        labels = [np.concatenate(eval_corpus.numbered[f"labels_{task}"]) for task in eval_corpus.task_names]
        labels = np.stack(labels, axis=1).astype(np.int64)
    else:
        names = [eval_corpus.label_names]
        labels = np.concatenate(eval_corpus.numbered["labels"]).astype(np.int64)
    logits = np.zeros((len(labels), sum(map(len, names))))
    watched_metric({"loss": 0.0} | compute_metrics(logits, labels), config)


def check_labels(corpus: CellCorpus, arguments: FinetuneArguments) -> None:
    """Refuse cells that a classifier cannot learn from, and warn of labels that it cannot learn.

    Raises:
        ConfigurationError: all cells to train on have the same label, or hardly two have: names of cells or
            measurements are no labels.
    """
    if arguments.label_column:
        _check_column(corpus, arguments.label_column, "labels", corpus.label_names)
    for task, names in corpus.task_names.items():
        _check_column(corpus, task, f"labels_{task}", names)


def _check_column(corpus: CellCorpus, column: str, field: str, names: Sequence[str]) -> None:
    numbers = np.unique(np.concatenate(corpus.numbered[field]))
    present = [names[number] for number in numbers]
    if len(present) < 2:
        raise ConfigurationError(
            f"All {len(corpus)} cells to train on have the same label in `obs[{column!r}]`, {present[0]!r}: a "
            "classifier needs at least two; give cells with others, or another `label_column`."
        )
    check_label_column(column, present, len(corpus), "`label_column` (`task_columns`)")
    if absent := sorted(set(names) - set(present)):
        warn(
            f"No cell to train on has the label {', '.join(map(repr, absent[:10]))} of `obs[{column!r}]`: all such "
            "cells are held out for evaluation, and the model cannot learn them."
        )


def with_defaults(config: TrainingConfig, corpus: CellCorpus, arguments: FinetuneArguments) -> TrainingConfig:
    """The settings with steps and a learning rate where they were left out: enough to learn from few cells."""
    completed = config.completed(learning_rate=1e-4 if arguments.head == "full" else LORA_RATE)
    if config.max_steps or config.num_train_epochs:
        return completed
    per_epoch = steps_per_epoch(corpus, config, started_processes())
    if per_epoch >= LEAST_STEPS:
        return completed
    # ten times, not after each of many short passes
    eval_steps = config.eval_steps or max(per_epoch, LEAST_STEPS // 10)
    return dataclasses.replace(completed, max_steps=LEAST_STEPS, eval_steps=eval_steps)


def adapt(model: PreTrainedModel, arguments: FinetuneArguments) -> nn.Module:
    """Put the LoRA that `arguments` asks for on the model, if any."""
    if arguments.head == "full":
        return model
    heads = get_family(model.config.model_type).classification_head
    return add_lora(
        model,
        **arguments.lora_settings,
        modules_to_save=[*heads, "gene_bag"] if arguments.head == BESIDE else None,
        train_gene_embeddings=arguments.train_gene_embeddings,
    )
