"""Pre-training from files to a model folder: what `sclm-hf pretrain` runs."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from accelerate.utils import set_seed
from transformers import PreTrainedModel

from ..corpora.cell_corpus import CellCorpus
from ..errors import ConfigurationError
from ..objectives import PRETRAINING
from ..objectives.collation import CellCollator
from ..objectives.contrastive import Contrast, ContrastiveCollator
from ..objectives.supervised import SupervisedCollator
from ..opening.classifiers import open_classifier
from ..opening.families import family_of
from ..opening.kinds import AUTO_CLASSES
from ..opening.new_models import new_config, new_model, new_tokenizer, processor_class
from ..opening.processors import load_processor
from ..opening.weights import open_model
from ..registry import get_family
from ..tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from ..tokenization.genes.gene_vocabulary import GeneVocabulary
from ..tokenization.processing_cell import CellProcessor
from .arguments import TrainingConfig, option, parse_arguments, read_mapping
from .checkpoints import check_output_dir
from .data import DataArguments, check_files, gene_names, open_corpora, store_statistics, variable_genes
from .embedding_watch import EmbeddingWatch
from .gene_embeddings import check_start, start_gene_embeddings
from .loop import TrainingResult, train
from .manifest import write_manifest
from .supervision import (
    SupervisionArguments,
    check_labels,
    class_names,
    class_sets,
    label_set_metrics,
    note_classes,
    supervised_collator,
    supervision,
)

SUPERVISED, CONTRASTIVE = SupervisedCollator.objective, ContrastiveCollator.objective
OF_ALL_FAMILIES = (SUPERVISED, CONTRASTIVE)
"""Objectives that go with every family."""

_SETTINGS = {
    "label_column": OF_ALL_FAMILIES,
    "ontology": OF_ALL_FAMILIES,
    "balance_labels": OF_ALL_FAMILIES,
    "denoising_weight": (SUPERVISED,),
    "embedding_weight": (SUPERVISED,),
    "spread_weight": (SUPERVISED,),
    "class_weights": (SUPERVISED,),
    "loss": (SUPERVISED,),
    "temperature": (CONTRASTIVE,),
}
"""Setting -> the objectives that have it."""


@dataclass
class PretrainArguments(SupervisionArguments):
    """Which model is pre-trained, and on which objective.

    Raises:
        ConfigurationError: two settings contradict one another.
    """

    model_name_or_path: str | None = option(None, "Folder or repository to go on from; by default a new model.")
    family: str = option("scgpt", "Family of a new model.")
    vocabulary: str | None = option(None, "Gene vocabulary of a new model; by default the genes of `train_files`.")
    min_files: int = option(
        1, "Without `vocabulary`: leave out genes that fewer of `train_files` measure (of fewer files, all must)."
    )
    max_genes: int = option(
        0,
        "Without `vocabulary`: keep so many genes, those whose log-normalised counts vary most over the cells that "
        "measure them; 0 = all.",
    )
    model_config: str | None = option(None, "Configuration of a new model: a mapping, as JSON on the command line.")
    encoding: str | None = option(None, "Changes to the family's published encoding: a mapping, as JSON.")
    gene_embeddings: str | None = option(
        None,
        "Where the gene embeddings of a new model start: `svd`, from the co-expression of the cells to train on, or a "
        ".csv, .npz or .safetensors with a vector per gene name. By default at random.",
    )
    objective: Literal[*PRETRAINING] | None = option(
        None,
        "What is predicted; by default as published for the family. With every family go `supervised`, which trains a "
        "classifier, and `contrastive`, which trains an encoder on two views of each cell and on labels, if given.",
    )
    mask_ratio: list[float] | None = field(
        default=None,
        metadata={"help": "Share of genes to predict; of several shares, one is drawn. By default as published."},
    )
    ratio_per: Literal["batch", "cell"] = option("batch", "Draw one of several `mask_ratio` per batch or per cell.")
    temperature: float = option(0.1, "With `objective` contrastive: by which similarities are divided.")
    probe_column: list[str] | None = field(
        default=None,
        metadata={
            "help": "Column of obs with labels of the cells to evaluate on, by which a probe says at each evaluation "
            "what the cell embedding is worth (several: each file uses the first that it has); by default "
            "`label_column`."
        },
    )
    stop_on_collapse: bool = option(
        True, "Stop when the cell embedding collapses: when two evaluations in a row find cells nearly alike."
    )
    second_pass_after: int = option(1000, "Steps before generation from the cell embedding joins in; -1 = never.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_supervision()
        describes_new = self.vocabulary or self.model_config or self.encoding or self.gene_embeddings
        if self.model_name_or_path and describes_new:
            raise ConfigurationError(
                "`vocabulary`, `model_config`, `encoding` and `gene_embeddings` describe a new model: they do not go "
                "with `model_name_or_path`, which brings its own."
            )
        self._check_genes()
        if self.gene_embeddings:
            check_start(self.gene_embeddings)

    def _check_genes(self) -> None:
        for name, least in (("min_files", 1), ("max_genes", 0)):
            value = getattr(self, name)
            if value < least:
                raise ConfigurationError(f"`{name}` must be at least {least}, got {value}.")
            if value > least and (self.vocabulary or self.model_name_or_path):
                raise ConfigurationError(
                    f"`{name}` chooses genes of `train_files` for a new vocabulary: it does not go with `vocabulary` "
                    "or `model_name_or_path`, which bring theirs."
                )

    def _check_supervision(self) -> None:
        fields = {field.name: field for field in dataclasses.fields(self)}
        for name, objectives in _SETTINGS.items():
            if self.objective not in objectives and getattr(self, name) not in (None, fields[name].default):
                known = " or ".join(map(repr, objectives))
                raise ConfigurationError(
                    f"`{name}` belongs to the objective {known}: give `objective` (`--objective {objectives[0]}`), or "
                    f"leave `{name}` out."
                )
        if self.objective == SUPERVISED and not self.label_column:
            raise ConfigurationError("The objective 'supervised' needs labels: name their column with `label_column`.")
        if self.objective in OF_ALL_FAMILIES and self.mask_ratio is not None:
            raise ConfigurationError(
                f"The objective {self.objective!r} has no `mask_ratio` that could be set: leave it out."
            )
        if self.temperature <= 0:
            raise ConfigurationError(f"`temperature` must be above 0, got {self.temperature}.")


def main(argv: Sequence[str] | None = None) -> None:
    """What `sclm-hf pretrain` and `training_scripts/pretrain.py` run.

    Args:
        argv: flags; those of the command line when None.

    Raises:
        SclmError: see [`pretrain`]; or a flag or a key of the recipe is unknown.
    """
    settings = parse_arguments((DataArguments, PretrainArguments, TrainingConfig), argv, prog="sclm-hf pretrain")
    result = pretrain(*settings)
    if result.is_main_process:
        print(result.summary())


def pretrain(data: DataArguments, arguments: PretrainArguments, config: TrainingConfig) -> TrainingResult:
    """Pre-train and save model and processor in `config.output_dir`.

    Raises:
        SclmError: settings, files and checkpoints do not fit together; the subclass says what is wrong.
    """
    set_seed(config.seed)
    if not arguments.model_name_or_path:
        # before any file is read
        choose_objective(arguments.objective, arguments.family)
    check_output_dir(config)
    check_files(data)
    processor = create_processor(data, arguments)
    of_all = arguments.objective in OF_ALL_FAMILIES
    collator = None if of_all else create_collator(arguments, processor, seed=config.seed)
    corpus, eval_corpus = open_corpora(
        data,
        processor,
        start_from=arguments.model_name_or_path,
        sample_share=1.0 if of_all else collator.sample_share,
        views=2 if arguments.objective == CONTRASTIVE else 1,
        seed=config.seed,
        **arguments.label_options,
    )
    store_statistics(processor, corpus)
    watch = open_watch(arguments, eval_corpus, config)
    if arguments.objective == SUPERVISED:
        result = _train_supervised(arguments, corpus, eval_corpus, processor, config, watch)
    elif arguments.objective == CONTRASTIVE:
        result = _train_contrastive(arguments, corpus, eval_corpus, processor, config, watch)
    else:
        model = _started_model(arguments, corpus)
        result = train(model, corpus, collator, config, eval_corpus=eval_corpus, processor=processor, watch=watch)
    chosen = eval_corpus if result.evaluation_chose else None
    write_manifest(result, corpus, arguments.model_name_or_path, chosen=chosen)
    return result


def open_watch(
    arguments: PretrainArguments, eval_corpus: CellCorpus | None, config: TrainingConfig
) -> EmbeddingWatch | None:
    """What watches the cell embedding, where there are cells to evaluate on.

    Raises:
        ConfigurationError: there are none, and `probe_column` names their labels.
        CorpusError: they have no labels there.
    """
    if eval_corpus is None:
        if arguments.probe_column:
            raise ConfigurationError(
                "`probe_column` names labels of cells to evaluate on: give such with `eval_files` or `eval_share`."
            )
        return None
    return EmbeddingWatch(
        eval_corpus.labelled_by(arguments.probe_column) if arguments.probe_column else eval_corpus,
        batch_size=config.per_device_eval_batch_size,
        stops=arguments.stop_on_collapse,
        learns_labels=bool(arguments.label_column),
    )


def _train_supervised(
    arguments: PretrainArguments,
    corpus: CellCorpus,
    eval_corpus: CellCorpus | None,
    processor: CellProcessor,
    config: TrainingConfig,
    watch: EmbeddingWatch | None,
) -> TrainingResult:
    check_labels(corpus)
    model = _started_model(arguments, corpus, "annotate", class_names(corpus))
    note_classes(model, corpus)
    collators = [
        supervised_collator(cells, processor, arguments, seed=config.seed) for cells in (corpus, eval_corpus or corpus)
    ]
    return train(
        supervision(model, corpus, processor, arguments),
        corpus,
        collators[0],
        config,
        eval_corpus=eval_corpus,
        eval_collator=collators[1],
        compute_metrics=label_set_metrics,
        processor=processor,
        watch=watch,
    )


def _train_contrastive(
    arguments: PretrainArguments,
    corpus: CellCorpus,
    eval_corpus: CellCorpus | None,
    processor: CellProcessor,
    config: TrainingConfig,
    watch: EmbeddingWatch | None,
) -> TrainingResult:
    collators = [
        ContrastiveCollator.from_processor(
            processor, label_sets=class_sets(cells) if cells.label_names else None, seed=config.seed
        )
        for cells in (corpus, eval_corpus or corpus)
    ]
    return train(
        Contrast(_started_model(arguments, corpus, "embed"), temperature=arguments.temperature),
        corpus,
        collators[0],
        config,
        eval_corpus=eval_corpus,
        eval_collator=collators[1],
        processor=processor,
        watch=watch,
    )


def _started_model(
    arguments: PretrainArguments, corpus: CellCorpus, task: str = "pretrain", classes: Sequence[str] = ()
) -> PreTrainedModel:
    """The model to train, its gene embeddings where they are to start."""
    n_batches = len(corpus.batch_names or ())
    model = create_model(arguments, corpus.processor, n_batches=n_batches, task=task, classes=classes)
    if arguments.gene_embeddings:
        start_gene_embeddings(model, corpus, arguments.gene_embeddings)
    return model


def create_processor(data: DataArguments, arguments: PretrainArguments) -> CellProcessor:
    """The processor of the model to go on from, or one with the family's encoding and the vocabulary asked for."""
    if arguments.model_name_or_path:
        return load_processor(arguments.model_name_or_path)
    encoding = ExpressionFeatureExtractor.for_family(arguments.family, **read_mapping("encoding", arguments.encoding))
    new = processor_class(arguments.family)
    if arguments.vocabulary:
        genes = GeneVocabulary.from_file(arguments.vocabulary, get_family(arguments.family).special_tokens)
        return new(encoding, new_tokenizer(arguments.family, genes))
    genes = gene_names(data, encoding.expects, min_files=arguments.min_files)
    processor = new(encoding, new_tokenizer(arguments.family, genes))
    if 0 < arguments.max_genes < len(genes):
        genes = variable_genes(data, processor, arguments.max_genes)
        processor = new(encoding, new_tokenizer(arguments.family, genes))
    return processor


def create_model(
    arguments: PretrainArguments,
    processor: CellProcessor,
    *,
    n_batches: int = 0,
    task: str = "pretrain",
    classes: Sequence[str] = (),
) -> PreTrainedModel:
    """The model to go on from, or a new one that fits the processor.

    Args:
        arguments: which model.
        processor: its vocabulary and encoding.
        n_batches: number of batch labels in the corpus.
        task: key of `AUTO_CLASSES`, which head it has.
        classes: names of its classes, with the task "annotate".

    Raises:
        ConfigurationError: `model_config` has a key that the family's configuration does not know; the model would
            take the cell from `<cls>`, which the encoding leaves out; or the model to go on from knows fewer batches.
    """
    if arguments.model_name_or_path:
        name = arguments.model_name_or_path
        model = open_classifier(name, classes) if classes else open_model(name, AUTO_CLASSES[task], new_head=True)
        known = getattr(model.config, "num_batches", 0)
        if 0 < known < n_batches:
            raise ConfigurationError(
                f"The model knows {known} batches, and `batch_column` has {n_batches} values: leave out "
                "`batch_column`, or pre-train a new model."
            )
        return model
    settings = read_mapping("model_config", arguments.model_config)
    model_config = new_config(arguments.family, processor, settings, n_batches=n_batches)
    if getattr(model_config, "pooling", None) == "cls" and not processor.feature_extractor.add_cls:
        raise ConfigurationError(
            "With `pooling` 'cls' the position of `<cls>` carries the cell, and with `add_cls` false an arbitrary "
            "gene would be there: leave `add_cls` in `encoding` true, or set `pooling` in `model_config` to "
            "'avg-pool'."
        )
    if classes:
        model_config.num_labels = len(classes)
    return new_model(model_config, task)


def create_collator(arguments: PretrainArguments, processor: CellProcessor, *, seed: int = 0) -> CellCollator:
    """The collator of the objective, with the published masking unless `arguments` say otherwise.

    Raises:
        ConfigurationError: the family is not pre-trained on this objective, or on none that is known; or the objective
            has no `mask_ratio`.
    """
    objective = choose_objective(arguments.objective, _family_name(arguments, processor))
    collator, settings = PRETRAINING[objective], {}
    if "ratio_per" in collator.__dataclass_fields__:
        settings["ratio_per"] = arguments.ratio_per
        if arguments.mask_ratio is not None:
            settings["mask_ratio"] = tuple(arguments.mask_ratio)
    elif arguments.mask_ratio is not None:
        raise ConfigurationError(f"The objective {objective!r} has no `mask_ratio` that could be set: leave it out.")
    if objective == "generative":
        after = arguments.second_pass_after
        settings["second_pass_after"] = None if after < 0 else after
    return collator.from_processor(processor, seed=seed, **settings)


def choose_objective(asked: str | None, family: str) -> str:
    """The objective asked for, by default the family's published one.

    Args:
        asked: name of an objective, or None.
        family: name of the family.

    Raises:
        ConfigurationError: the family is not pre-trained on it, or on none that is known.
    """
    known = get_family(family)
    if asked in OF_ALL_FAMILIES:
        return asked
    if not known.objectives:
        raise ConfigurationError(
            f"{known.title} cannot be pre-trained{f': {known.no_objective}' if known.no_objective else ''}. Fine-tune "
            "it, or train `AutoModelForPreTraining` on batches of your own."
        )
    if asked is not None and asked not in known.objectives:
        able = " or ".join(map(repr, [*known.objectives, *OF_ALL_FAMILIES]))
        raise ConfigurationError(f"{known.title} is pre-trained on {able}, not on {asked!r}: leave `objective` out.")
    return asked or known.objectives[0]


def _family_name(arguments: PretrainArguments, processor: CellProcessor) -> str:
    if processor.feature_extractor.family is not None:
        return processor.feature_extractor.family
    if arguments.model_name_or_path:
        return family_of(arguments.model_name_or_path)[0].name
    return arguments.family
