"""Fine-tuning of language models to annotate cells: what `sclm-hf finetune --text` runs."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from ..adapters.lora import add_lora
from ..corpora.cell_corpus import CellCorpus
from ..errors import ConfigurationError, require
from ..logging import get_logger
from ..opening.kinds import inner_model
from ..opening.language_models import open_language_model
from ..opening.loading import LoadedModel, load_model
from ..text.annotator import TextAnnotator, TextProcessor
from ..text.answer_logits import answers_alone
from ..text.candidates import told_apart
from ..text.cell_words import CellWords, sentence_processor
from ..text.closed_set import Candidates, answers_of
from ..text.code_words import CodeWords, has_codebook
from ..text.codebook import Codebook
from ..text.collation import ConversationCollator
from ..text.conversations import Conversations
from ..text.language_models import add_cell_tokens, add_gene_tokens, small_language_model
from ..text.packing import require_packable
from ..text.rendering import answer_ids, context_size
from .answers import judged
from .arguments import TrainingConfig, read_mapping
from .checkpoints import check_output_dir
from .data import gene_names, open_corpora, refuse_adapter
from .finetune import check_labels, open_rivals, takes_rivals
from .loop import TrainingResult, save_start, train
from .manifest import write_manifest
from .partners import HELD_OUT
from .settings.data import DataArguments, check_files
from .settings.finetune import FinetuneArguments
from .settings.text import SMALL, TextArguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

accelerate = require("accelerate", extra="train")

logger = get_logger(__name__)


def finetune_text(
    data: DataArguments, arguments: FinetuneArguments, text: TextArguments, config: TrainingConfig
) -> TrainingResult:
    """Fine-tune a language model to annotate, and save it with its tokenizer, question and labels.

    On the cells held out, the temperature of its probabilities is fitted, and it is weighed with its partners, unless
    there are to be none; then only cells that `data` names are held out. The log-loss that is told of a cell does not
    count the cell itself in the temperature.

    Raises:
        SclmError: settings, files and checkpoints do not fit together; the subclass says what is wrong.
    """
    _check(arguments, text)
    check_output_dir(config)
    check_files(data)
    accelerate.utils.set_seed(config.seed)
    encoder = _open_encoder(text.cell_tokens, config) if text.cell_tokens else None
    cells = encoder.processor if encoder else sentence_processor(gene_names(data, "any"), text.n_genes)
    with_rivals = takes_rivals(data, arguments, cells)
    corpus, eval_corpus = open_corpora(
        data,
        cells,
        label_column=arguments.label_column,
        unlabelled=arguments.unlabelled,
        even_share=HELD_OUT if with_rivals else 0.0,
        seed=config.seed,
    )
    check_labels(corpus, arguments)
    organism = data.species or "human"
    if encoder:
        _refuse_parts_of_samples(corpus, "per_device_train_batch_size", config)
        _refuse_parts_of_samples(eval_corpus, "per_device_eval_batch_size", config)
    codes = _code_words(encoder, text, corpus, config.seed) if encoder else None
    model, tokenizer = _open(arguments, text, corpus, organism, config, codes.codebook if codes else None)
    task = "annotate_codes" if codes else "annotate"
    conversations = Conversations(corpus, task, organism=organism, tokenizer=tokenizer, cells_as=codes)
    candidates = Candidates(labels=corpus.label_names, prompt=conversations.templates[0].prompt, organism=organism)
    # before anything is learnt
    prompt, answers = [{"role": "user", "content": candidates.prompt}], answers_of(corpus.label_names, tokenizer)
    whole = [answer_ids(tokenizer, prompt, answer) for answer in answers]
    told_apart(whole, corpus.label_names, tokenizer.eos_token_id)
    processor = TextProcessor(tokenizer, cells, candidates, codes)
    if text.pack_tokens:
        require_packable(inner_model(model))
    collator = ConversationCollator(
        conversations, tokenizer, model.config.is_encoder_decoder, context_size(model.config), text.pack_tokens
    )
    held_out = None
    if eval_corpus is not None:
        asked = Conversations(eval_corpus, task, organism=organism, tokenizer=tokenizer, cells_as=codes)
        held_out = dataclasses.replace(collator, conversations=asked, pack_tokens=0)
        held_out = answers_alone(held_out, inner_model(model))
    rivals = open_rivals(data, corpus, arguments, seed=config.seed) if with_rivals else None
    collator = answers_alone(collator, inner_model(model))
    result = train(
        model, corpus, collator, config, eval_corpus=eval_corpus, eval_collator=held_out, processor=processor
    )
    if eval_corpus is not None and result.is_main_process:
        annotator = TextAnnotator(inner_model(model), processor)
        result = judged(result, annotator, candidates, eval_corpus, rivals, config, save=processor.save_candidates)
    start_from = None if arguments.model_name_or_path == SMALL else arguments.model_name_or_path
    # the temperature of the answers is fitted on them, whatever else they chose
    write_manifest(result, corpus, start_from, chosen=eval_corpus)
    return result


def check_language_settings(arguments: FinetuneArguments) -> None:
    """Refuse settings that a language model has no use for, whatever way it reads cells.

    Raises:
        ConfigurationError: there is one.
    """
    if not arguments.label_column:
        raise ConfigurationError("A language model learns one task: give one `label_column`, no `task_columns`.")
    if arguments.head not in ("lora", "full"):
        raise ConfigurationError(f"A language model is trained with `head` lora or full, got {arguments.head!r}.")
    if arguments.weighs_labels:
        raise ConfigurationError("`class_weights` and `loss` are for classifiers: a language model has neither.")
    for name in ("target_depth", "ontology", "train_gene_embeddings"):
        if getattr(arguments, name):
            raise ConfigurationError(f"`{name}` (`--{name}`) is for classifiers: a language model has no use for it.")


def _check(arguments: FinetuneArguments, text: TextArguments) -> None:
    """Refuse settings that do not fit a language model that reads sentences."""
    check_language_settings(arguments)
    if arguments.model_name_or_path == SMALL and arguments.head != "full":
        raise ConfigurationError(f"The model `{SMALL}` is new, so train all of it: give `head` full (`--head full`).")
    if text.text_config and arguments.model_name_or_path != SMALL:
        raise ConfigurationError(f"`text_config` is for the model `{SMALL}`: a saved one has its own configuration.")


def _refuse_parts_of_samples(corpus: CellCorpus | None, setting: str, config: TrainingConfig) -> None:
    """Refuse batches of fewer cells than a sample has: part of a sample has other code words than all of it."""
    largest = 0 if corpus is None or corpus.samples is None else int(corpus.samples.sizes.max())
    if getattr(config, setting) < largest:
        raise ConfigurationError(
            f"The encoder reads whole samples, of which the largest has {largest:,} cells, and `{setting}` is "
            f"{getattr(config, setting):,}, so its cells would get other code words than `annotate` gives them: give "
            f"{largest:,} (`--{setting} {largest}`), name smaller samples with `batch_column` (`--batch_column`), or "
            "take an encoder that reads cells one by one."
        )


def _open_encoder(name: str, config: TrainingConfig) -> LoadedModel:
    """The model of cells whose embeddings become code words."""
    refuse_adapter(name)
    # what makes batches in processes of its own cannot use an accelerator
    on_cpu = config.use_cpu or config.dataloader_num_workers
    return load_model(name, "AutoModel", device="cpu" if on_cpu else None)


def _code_words(encoder: LoadedModel, text: TextArguments, corpus: CellCorpus, seed: int) -> CodeWords:
    """What writes cells as code words, with the codebook of the encoder's folder or a new one."""
    if has_codebook(encoder.name):
        logger.info("Cells are written with the codebook of `%s`.", encoder.name)
        return CodeWords(encoder.model, encoder.processor, Codebook.load(encoder.name))
    return CodeWords.fit(encoder.model, corpus, n_words=text.n_code_words, n_codes=text.codebook_size, seed=seed)


def _open(
    arguments: FinetuneArguments,
    text: TextArguments,
    corpus: CellCorpus,
    organism: str,
    config: TrainingConfig,
    codebook: Codebook | None,
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The model to train, ready for it, and its tokenizer."""
    if arguments.model_name_or_path == SMALL:
        genes = [] if codebook else CellWords(corpus.processor).words
        model, tokenizer = small_language_model(
            genes,
            answers_of(corpus.label_names, None),
            tasks=("annotate_codes",) if codebook else ("annotate",),
            other_words=[organism],
            seed=config.seed,
            **read_mapping("text_config", text.text_config),
        )
        if codebook:
            add_cell_tokens(model, tokenizer, codebook, seed=config.seed)
        return model, tokenizer
    model, tokenizer = open_language_model(arguments.model_name_or_path)
    new = add_gene_tokens(model, tokenizer, CellWords(corpus.processor, tokenizer).words) if text.gene_tokens else []
    if codebook:
        new = add_cell_tokens(model, tokenizer, codebook, seed=config.seed)
    if arguments.head == "full":
        return model, tokenizer
    if new:
        # an adapter names a base that is saved
        base = Path(config.output_dir) / "base"
        save_start(model, base, tokenizer, config)
        model, tokenizer = open_language_model(str(base))
    trained = {"trainable_token_indices": new} if new else {}
    return add_lora(model, **arguments.lora_settings, **trained), tokenizer
