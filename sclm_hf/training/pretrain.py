"""Pre-training from files to a model folder: what `sclm-hf pretrain` runs."""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from ..corpora.cell_corpus import CellCorpus
from ..errors import ConfigurationError, require
from ..objectives import PRETRAINING
from ..objectives.collation import CellCollator
from ..objectives.contrastive import Contrast, ContrastiveCollator
from ..opening.classifiers import open_classifier
from ..opening.families import choose_class, family_of
from ..opening.kinds import AUTO_CLASSES, is_classifier
from ..opening.new_models import new_config, new_model, new_tokenizer, processor_class
from ..opening.processors import load_processor
from ..opening.weights import open_model
from ..registry import get_family
from ..tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from ..tokenization.genes.gene_vocabulary import GeneVocabulary
from ..tokenization.processing_cell import CellProcessor
from .arguments import TrainingConfig, read_mapping
from .checkpoints import check_output_dir
from .data import gene_names, open_corpora, store_statistics, variable_genes
from .embedding_watch import EmbeddingWatch
from .gene_embeddings import start_gene_embeddings
from .loop import TrainingResult, train
from .manifest import write_manifest
from .settings.data import DataArguments, check_files
from .settings.pretrain import CONTRASTIVE, OF_ALL_FAMILIES, SUPERVISED, PretrainArguments
from .supervision import (
    check_labels,
    class_names,
    class_sets,
    label_set_metrics,
    note_classes,
    supervised_collator,
    supervision,
)

accelerate = require("accelerate", extra="train")


def pretrain(data: DataArguments, arguments: PretrainArguments, config: TrainingConfig) -> TrainingResult:
    """Pre-train and save model and processor in `config.output_dir`.

    Raises:
        SclmError: settings, files and checkpoints do not fit together; the subclass says what is wrong.
    """
    accelerate.utils.set_seed(config.seed)
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
) -> nn.Module:
    """The model to train, its gene embeddings where they are to start, in a LoRA where one is asked for."""
    n_batches = len(corpus.batch_names or ())
    model = create_model(arguments, corpus.processor, n_batches=n_batches, task=task, classes=classes)
    if arguments.gene_embeddings:
        start_gene_embeddings(model, corpus, arguments.gene_embeddings)
    if not arguments.lora_r:
        return model
    from ..adapters.lora import add_lora, heads_of

    # those of a classifier are known
    heads = None if is_classifier(model) else heads_of(model)
    return add_lora(model, **arguments.lora_settings, modules_to_save=heads)


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
        if classes:
            model = open_classifier(name, classes)
        else:
            # a head of the embeddings' weights stays as it is beside a LoRA, so it must be there
            shares = choose_class(name, AUTO_CLASSES[task])[0]._tied_weights_keys
            model = open_model(name, AUTO_CLASSES[task], new_head=not (arguments.lora_r and shares))
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
