"""Fine-tuning of language models that read cells as soft tokens, in two stages: projector, then language model."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.lora import add_lora
from ..errors import require
from ..logging import get_logger
from ..modeling.cell_text.processing_cell_text import CellTextProcessor
from ..objectives.cell_text import CellTextCollator
from ..opening.cell_text_models import new_cell_text_model
from ..opening.kinds import inner_model
from ..opening.processors import load_processor
from ..opening.weights import open_model
from ..text.answer_logits import answers_alone
from ..text.candidates import told_apart
from ..text.cell_text_annotator import CellTextAnnotator
from ..text.closed_set import Candidates, answers_of
from .answers import judged
from .arguments import TrainingConfig
from .checkpoints import check_output_dir
from .data import open_corpora
from .finetune import check_labels, open_rivals, takes_rivals
from .finetune_text import check_language_settings
from .loop import TrainingResult, save_start, train
from .manifest import write_manifest
from .partners import HELD_OUT
from .settings.cell_text import CellTextArguments
from .settings.data import DataArguments, check_files
from .settings.finetune import FinetuneArguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel

accelerate = require("accelerate", extra="train")

logger = get_logger(__name__)

QUESTIONS = (
    "Which cell type is it?",
    "Name the type of this {organism} cell.",
    "Identify the type of the cell above.",
    "Label this cell with its type.",
    "What kind of {organism} cell has this profile?",
    "Assign a cell type to this transcriptome.",
    "This is one cell. What is its cell type?",
    "Task: annotation of cell types. Organism: {organism}. Cell type:",
    "Of which type is this {organism} cell, judging by its expression?",
    "Look at this {organism} cell and say what it is.",
)
"""What is asked about a cell, which stands before the question as soft tokens; `annotate` asks the first one."""

_KIND = "AutoModelForMultimodalLM"


@dataclass(frozen=True)
class _Saved:
    """What is saved beside a model: its processor, the question and the labels."""

    processor: CellTextProcessor
    candidates: Candidates

    def save_pretrained(self, folder: str | Path) -> None:
        self.processor.save_pretrained(folder)
        self.candidates.save(folder)


def finetune_cell_text(
    data: DataArguments,
    arguments: FinetuneArguments,
    soft: CellTextArguments,
    config: TrainingConfig,
) -> TrainingResult:
    """Fine-tune a language model to annotate cells that it reads as soft tokens.

    The projector learns first, with both models frozen, and is saved with them in `projector` below the output
    folder. Then the language model learns too, by a LoRA or in full.

    Raises:
        SclmError: settings, files and checkpoints do not fit together; the subclass says what is wrong.
    """
    check_language_settings(arguments)
    check_output_dir(config)
    check_files(data)
    accelerate.utils.set_seed(config.seed)
    cells = load_processor(soft.cell_model)
    with_rivals = takes_rivals(data, arguments, cells)
    corpus, eval_corpus = open_corpora(
        data,
        cells,
        label_column=arguments.label_column,
        unlabelled=arguments.unlabelled,
        # a cell is asked about alone, whatever sample it is from
        split_samples=True,
        even_share=HELD_OUT if with_rivals else 0.0,
        seed=config.seed,
    )
    check_labels(corpus, arguments)
    organism = data.species or "human"
    questions = [question.format(organism=organism) for question in QUESTIONS]
    model, processor = new_cell_text_model(
        soft.cell_model,
        arguments.model_name_or_path,
        num_cell_tokens=soft.num_cell_tokens,
        projector=soft.projector,
    )
    saved = _Saved(processor, Candidates(labels=corpus.label_names, prompt=questions[0], organism=organism))
    answers = answers_of(corpus.label_names, processor.tokenizer)
    collator = CellTextCollator.from_processor(processor, questions, answers, seed=config.seed)
    # before anything is learnt
    told_apart([list(ids) for ids in collator.answers], corpus.label_names, processor.tokenizer.eos_token_id)
    collator = answers_alone(collator, model.cell_text.language_model)
    rivals = open_rivals(data, corpus, arguments, seed=config.seed) if with_rivals else None
    folder = Path(config.output_dir) / "projector"
    if not soft.projector_epochs:
        save_start(model, folder, saved, config)
    else:
        model.train_projector_only()
        first = dataclasses.replace(
            config,
            output_dir=str(folder),
            num_train_epochs=soft.projector_epochs,
            max_steps=0,
            eval_steps=0,
            early_stopping_patience=0,
            # a checkpoint that is named is one of the second stage
            resume_from_checkpoint=config.resume_from_checkpoint and "last",
        )
        train(model, corpus, collator, first, processor=saved, is_last=False)
    # the adapter begins the same, whether the projector has just been trained or lies there
    accelerate.utils.set_seed(config.seed)
    model = _adapted(open_model(str(folder), _KIND), arguments)
    result = train(model, corpus, collator, config, eval_corpus=eval_corpus, processor=saved)
    if eval_corpus is not None and result.is_main_process:
        annotator = CellTextAnnotator(inner_model(model), processor, saved.candidates)
        result = judged(result, annotator, saved.candidates, eval_corpus, rivals, config)
    # the temperature of the answers is fitted on them, whatever else they chose
    write_manifest(result, corpus, soft.cell_model, chosen=eval_corpus)
    return result


def _adapted(model: "PreTrainedModel", arguments: FinetuneArguments) -> Any:
    """The model of the second stage; its encoder of cells stays as it is."""
    if arguments.head == "full":
        model.cell_text.cell_model.requires_grad_(False)
        return model
    return add_lora(model, **arguments.lora_settings)
