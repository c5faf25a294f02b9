"""Fine-tune a language model to annotate cells with TRL's `SFTTrainer`, on the conversations of `finetune --text`.

    python training_scripts/sft_text.py --train_files cells.h5ad --label_column cell_type \
        --model_name_or_path pretrained --output_dir annotator --max_steps 500

The settings of training are those of TRL's `SFTConfig`; the loss is on the answers alone. `sclm-hf annotate` reads the
folder that is written.
"""

from dataclasses import dataclass, field

from transformers import HfArgumentParser
from trl import SFTConfig, SFTTrainer

from sclm_hf import CellCorpus
from sclm_hf.opening.language_models import open_language_model
from sclm_hf.text.annotator import TextProcessor
from sclm_hf.text.cell_words import CellWords, sentence_processor
from sclm_hf.text.closed_set import Candidates
from sclm_hf.text.conversations import Conversations
from sclm_hf.text.language_models import add_gene_tokens
from sclm_hf.training.data import gene_names
from sclm_hf.training.settings.data import DataArguments


@dataclass
class Settings:
    """What is learned, from which cells."""

    model_name_or_path: str = field(metadata={"help": "Folder or repository of a causal language model."})
    train_files: list[str] = field(metadata={"help": "Files of cells."})
    label_column: str = field(metadata={"help": "Column of obs with the cell types."})
    n_genes: int = field(default=100, metadata={"help": "Genes of a cell's sentence."})
    gene_tokens: bool = field(default=False, metadata={"help": "Make each gene one token."})


def main(argv: list[str] | None = None) -> SFTTrainer:
    settings, config = HfArgumentParser((Settings, SFTConfig)).parse_args_into_dataclasses(argv)
    cells = sentence_processor(gene_names(DataArguments(settings.train_files), "any"), settings.n_genes)
    corpus = CellCorpus(settings.train_files, cells, label_column=settings.label_column, seed=config.seed)
    model, tokenizer = open_language_model(settings.model_name_or_path)
    if settings.gene_tokens:
        add_gene_tokens(model, tokenizer, CellWords(cells, tokenizer).words)
    conversations = Conversations(corpus, tokenizer=tokenizer)
    trainer = SFTTrainer(
        model=model, args=config, train_dataset=conversations.to_dataset(), processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model()
    candidates = Candidates(labels=corpus.label_names, prompt=conversations.templates[0].prompt)
    TextProcessor(tokenizer, cells, candidates).save_pretrained(config.output_dir)
    return trainer


if __name__ == "__main__":
    main()
