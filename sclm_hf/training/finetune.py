"""Fine-tuning for annotation from files to a model folder: what `sclm-hf finetune` runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from accelerate.utils import set_seed
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from ..adapters.lora import add_lora
from ..corpora.cell_corpus import CellCorpus
from ..errors import ConfigurationError
from ..logging import warn
from ..objectives.cell_classification import CellClassificationCollator
from .arguments import TrainingConfig, option
from .data import DataArguments, load_processor, open_corpora
from .loop import TrainingResult, train
from .validation import classification_metrics


@dataclass
class FinetuneArguments:
    """What is fine-tuned, and how."""

    model_name_or_path: str = field(metadata={"help": "Folder or repository of the pre-trained model."})
    label_column: str = field(metadata={"help": "Column of obs with the label of each cell."})
    lora: bool = option(True, "Train a LoRA and the classifier; --no_lora trains all weights.")
    lora_r: int = option(8, "Rank of the LoRA.")
    lora_alpha: int = option(16, "Its update is scaled by lora_alpha / lora_r.")
    lora_dropout: float = option(0.0, "Dropout before the update.")
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Layers to adapt; by default those of the family."}
    )
    train_gene_embeddings: bool = option(False, "Beside the LoRA, train the gene embeddings in full.")


def finetune(data: DataArguments, arguments: FinetuneArguments, config: TrainingConfig) -> TrainingResult:
    """Fine-tune a classifier of cells and save model, adapter and processor in `config.output_dir`.

    Raises:
        SclmError: settings, files or checkpoints do not go together; the subclass tells what.
    """
    set_seed(config.seed)
    processor = load_processor(arguments.model_name_or_path)
    corpus, eval_corpus = open_corpora(
        data,
        processor,
        label_column=arguments.label_column,
        start_from=arguments.model_name_or_path,
        seed=config.seed,
    )
    check_labels(corpus, arguments.label_column)
    model = adapt(load_classifier(arguments.model_name_or_path, corpus.label_names), arguments)
    collator = CellClassificationCollator.from_processor(processor, num_labels=len(corpus.label_names))
    return train(
        model,
        corpus,
        collator,
        config,
        eval_corpus=eval_corpus,
        compute_metrics=classification_metrics,
        processor=processor,
    )


def check_labels(corpus: CellCorpus, column: str) -> None:
    """Refuse cells that a classifier cannot learn from, and warn of labels that it cannot learn.

    Raises:
        ConfigurationError: all cells to train on have the same label.
    """
    numbers = np.unique(np.concatenate(corpus.numbered["labels"]))
    present = [corpus.label_names[number] for number in numbers]
    if len(present) < 2:
        raise ConfigurationError(
            f"All {len(corpus)} cells to train on have the same label in `obs[{column!r}]`, {present[0]!r}: a "
            "classifier needs at least two; give cells with others, or another `label_column`."
        )
    if absent := sorted(set(corpus.label_names) - set(present)):
        warn(
            f"No cell to train on has the label {', '.join(map(repr, absent[:10]))} of `obs[{column!r}]`: all such "
            "cells are held out for evaluation, and the model cannot learn them."
        )


def load_classifier(name: str, label_names: Sequence[str]) -> PreTrainedModel:
    """The pre-trained model with a classifier for `label_names`; the classifier starts random if it has none."""
    return AutoModelForSequenceClassification.from_pretrained(
        name,
        id2label=dict(enumerate(label_names)),
        label2id={label: i for i, label in enumerate(label_names)},
        ignore_mismatched_sizes=True,
    )


def adapt(model: PreTrainedModel, arguments: FinetuneArguments) -> nn.Module:
    """Put the LoRA that `arguments` asks for on the model, if any."""
    if not arguments.lora:
        return model
    return add_lora(
        model,
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=arguments.lora_target_modules,
        train_gene_embeddings=arguments.train_gene_embeddings,
    )
