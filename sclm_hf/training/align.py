"""A shared space of cells and text, from files to a model folder: what `sclm-hf align` runs."""

import functools
from collections.abc import Sequence
from typing import Any

from ..corpora.labels.descriptions import read_descriptions
from ..errors import ConfigurationError, require
from ..objectives.cell_text_contrastive import CellTextContrastiveCollator
from ..opening.dual_encoders import new_dual_encoder, small_text_encoder
from ..opening.processors import load_processor
from .arguments import TrainingConfig
from .checkpoints import check_output_dir
from .data import open_corpora
from .loop import TrainingResult, train
from .manifest import write_manifest
from .settings.align import NEW, AlignArguments
from .settings.data import DataArguments, check_files
from .validation import classification_metrics

accelerate = require("accelerate", extra="train")


def align(data: DataArguments, arguments: AlignArguments, config: TrainingConfig) -> TrainingResult:
    """Train a dual encoder of cells and text and save it, with its processor, in `config.output_dir`.

    Evaluation asks for the label of each cell among all labels, by their first texts. An encoder of samples sees as
    many cells of one together as a batch holds.

    Raises:
        SclmError: settings, files and checkpoints do not fit together; the subclass says what is wrong.
    """
    check_output_dir(config)
    check_files(data)
    accelerate.utils.set_seed(config.seed)
    corpus, eval_corpus = open_corpora(
        data,
        load_processor(arguments.model_name_or_path),
        label_column=arguments.label_column,
        unlabelled=arguments.unlabelled,
        start_from=arguments.model_name_or_path,
        split_samples=True,
        seed=config.seed,
    )
    texts = texts_of(corpus.label_names, arguments)
    text_model: Any = arguments.text_model
    if text_model == NEW:
        text_model = small_text_encoder(text for several in texts for text in several)
    model, processor = new_dual_encoder(arguments.model_name_or_path, text_model, **arguments.model_settings)
    if arguments.lock != "none":
        model.lock(arguments.lock)
    collator = CellTextContrastiveCollator.from_processor(processor, texts, seed=config.seed)
    every = CellTextContrastiveCollator.from_processor(processor, texts, all_labels=True)
    result = train(
        model,
        corpus,
        collator,
        config,
        eval_corpus=eval_corpus,
        eval_collator=every,
        compute_metrics=functools.partial(classification_metrics, label_names=corpus.label_names),
        processor=processor,
    )
    chosen = eval_corpus if result.evaluation_chose else None
    write_manifest(result, corpus, arguments.model_name_or_path, chosen=chosen)
    return result


def texts_of(label_names: Sequence[str], arguments: AlignArguments) -> list[list[str]]:
    """The texts of each label, in the order of their numbers.

    Raises:
        ConfigurationError: a label has none.
    """
    described = read_descriptions(list(label_names) if arguments.labels is None else arguments.labels)
    if absent := [name for name in label_names if name not in described]:
        raise ConfigurationError(
            f"`{arguments.labels}` describes none of {absent[:10]}, which cells are labelled in "
            f"`obs[{arguments.label_column!r}]`: add a text for each (`--labels`)."
        )
    return [described[name] for name in label_names]
