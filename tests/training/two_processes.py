"""Trains a few steps; launched by `test_processes.py`."""

import sys
from pathlib import Path

from sclm_hf import CellCorpus, CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.objectives.masked_expression import MaskedExpressionCollator
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.embedding_watch import EmbeddingWatch
from sclm_hf.training.loop import train
from tests.training.h5ad_files import GENES
from tests.training.training_cells import CLS, PAD, CellsInMemory, masked_model

MASKS = {"mask_ratio": (0.2, 0.6), "ratio_per": "cell"}


def main(output: str, steps: int, batch_size: int, accumulation: int, max_tokens: int) -> None:
    config = TrainingConfig(
        output_dir=output,
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        max_tokens_per_batch=max_tokens,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-3,
        # key biases have no gradient but rounding, which Adam would blow up to whole steps
        adam_epsilon=1e-3,
        logging_steps=1,
        save_steps=3,
        use_cpu=True,
        ddp_find_unused_parameters=True,
    )
    cells = cells_in_files(Path(output).parent) if max_tokens else cells_in_memory()
    watch = EmbeddingWatch(cells[3], batch_size=batch_size) if max_tokens else None
    result = train(*cells[:3], config, eval_corpus=cells[3], watch=watch)
    if result.is_main_process:
        print(result.summary())


def cells_in_memory() -> tuple:
    """Model, cells, objective, and cells to evaluate on."""
    collator = MaskedExpressionCollator(pad_token_id=PAD, special_token_ids=(CLS, PAD), **MASKS)
    # the last round of an epoch leaves a process without a batch
    return masked_model(hidden_dropout_prob=0.0), CellsInMemory(26), collator, CellsInMemory(7, seed=1)


def cells_in_files(folder: Path) -> tuple:
    """The same from `folder/*.h5ad`, all cells in one window."""
    processor = CellProcessor(ExpressionFeatureExtractor(n_bins=6), GeneTokenizer.from_genes(GENES))
    corpus = CellCorpus([folder / "a.h5ad", folder / "b.h5ad"], processor)
    held_out = CellCorpus(folder / "held_out.h5ad", processor, shuffle=False)
    vocabulary, pad = processor.tokenizer.gene_vocabulary, processor.tokenizer.pad_token_id
    sizes = {"vocab_size": vocabulary.size, "pad_token_id": pad, "cls_token_id": vocabulary["<cls>"]}
    model = masked_model(hidden_dropout_prob=0.0, **sizes)
    return model, corpus, MaskedExpressionCollator.from_processor(processor, **MASKS), held_out


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
