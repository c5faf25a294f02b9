"""A shared space of cells and text, from files to a model folder: what `sclm-hf align` runs."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from accelerate.utils import set_seed

from ..corpora.labels.descriptions import read_descriptions
from ..errors import ConfigurationError
from ..objectives.cell_text_contrastive import CellTextContrastiveCollator
from ..opening.dual_encoders import new_dual_encoder, small_text_encoder
from ..opening.processors import load_processor
from .arguments import TrainingConfig, option, parse_arguments
from .checkpoints import check_output_dir
from .data import DataArguments, check_files, open_corpora
from .loop import TrainingResult, train
from .manifest import write_manifest
from .validation import classification_metrics

NEW = "new"


@dataclass
class AlignArguments:
    """Which two encoders are joined, and which texts describe which cells.

    Raises:
        ConfigurationError: nothing would be trained.
    """

    model_name_or_path: str = field(metadata={"help": "Folder or repository of the encoder of cells."})
    label_column: str = field(metadata={"help": "Column of obs with the label of each cell."})
    text_model: str = option(
        NEW,
        "Folder or repository of the encoder of texts, or of a causal language model; `new` = a small one, trained "
        "from scratch, that knows the words of the descriptions.",
    )
    labels: str | None = option(
        None,
        "Descriptions of the labels: a CSV table with the columns `label` and `text` (a label may have several rows), "
        "or a JSON mapping; by default the labels are names of the Cell Ontology, whose definitions are taken.",
    )
    unlabelled: Literal["refuse", "drop"] = option("refuse", "What to do with cells without a label.")
    lock: Literal["none", "cell", "text"] = option("none", "Which encoder stays as it is.")
    projection_dim: int = option(256, "Width of the shared space.")
    projection: Literal["linear", "mlp"] = option("linear", "How both encoders reach it.")
    text_pooling: Literal["mean", "last", "cls"] = option(
        "mean", "What stands for a text: the mean of its tokens, the last (causal language models) or the first."
    )
    matching_layers: int = option(0, "Layers of a head that tells from the tokens of both whether a text fits a cell.")

    def __post_init__(self) -> None:
        if self.text_model == NEW and self.lock == "text":
            raise ConfigurationError("A new text encoder knows nothing yet: train it (`lock` none or cell).")

    @property
    def model_settings(self) -> dict[str, Any]:
        """Settings of `CellTextDualEncoderConfig`."""
        names = ("projection_dim", "projection", "text_pooling", "matching_layers")
        return {name: getattr(self, name) for name in names}


def main(argv: Sequence[str] | None = None) -> None:
    """What `sclm-hf align` and `training_scripts/align.py` run.

    Args:
        argv: flags; those of the command line when None.

    Raises:
        SclmError: see [`align`]; or a flag or a key of the recipe is unknown.
    """
    settings = parse_arguments((DataArguments, AlignArguments, TrainingConfig), argv, prog="sclm-hf align")
    result = align(*settings)
    if result.is_main_process:
        print(result.summary())


def align(data: DataArguments, arguments: AlignArguments, config: TrainingConfig) -> TrainingResult:
    """Train a dual encoder of cells and text and save it, with its processor, in `config.output_dir`.

    Evaluation asks for the label of each cell among all labels, by their first texts.

    Raises:
        SclmError: settings, files and checkpoints do not fit together; the subclass says what is wrong.
    """
    check_output_dir(config)
    check_files(data)
    set_seed(config.seed)
    corpus, eval_corpus = open_corpora(
        data,
        load_processor(arguments.model_name_or_path),
        label_column=arguments.label_column,
        unlabelled=arguments.unlabelled,
        start_from=arguments.model_name_or_path,
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
