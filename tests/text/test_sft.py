"""Conversations in TRL's own trainer."""

import runpy
from pathlib import Path

import anndata
import pytest

from sclm_hf import CellCorpus, annotate
from sclm_hf.text.cell_words import sentence_processor
from sclm_hf.text.collation import ConversationCollator
from sclm_hf.text.conversations import Conversations
from sclm_hf.tokenization.encodings.masks import IGNORED

from .small import LABELS, make_cells, make_language_model, write_cells

pytest.importorskip("trl")
pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "training_scripts" / "sft_text.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    model, tokenizer = make_language_model()
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    settings = {
        "model_name_or_path": folder / "base",
        "train_files": write_cells(folder, 48),
        "label_column": "cell_type",
        "n_genes": 8,
        "output_dir": folder / "out",
        "max_steps": 12,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    }
    argv = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return folder / "out", runpy.run_path(str(SCRIPT))["main"](argv)


def test_sft_trainer_learns_and_annotate_reads_what_it_saves(trained):
    folder, trainer = trained
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    assert losses[-1] < 0.5 * losses[0]
    cells = annotate(make_cells(6, seed=1), folder)
    assert set(cells.obs["sclm_prediction"].cat.categories) == set(LABELS)


def test_its_labels_are_those_of_the_collator(trained):
    folder, trainer = trained
    tokenizer = trainer.processing_class
    file = folder.parent / "cells0.h5ad"
    cells = sentence_processor(sorted(anndata.read_h5ad(file).var_names), 8)
    corpus = CellCorpus(str(file), cells, label_column="cell_type", seed=trainer.args.seed)
    conversations = Conversations(corpus, tokenizer=tokenizer)
    rows = [row for row, _ in zip(conversations.to_dataset(), range(16), strict=False)]
    expected = ConversationCollator(conversations, tokenizer).collate_rows(rows)
    found = next(iter(trainer.get_train_dataloader()))
    assert found["labels"].tolist() == expected["labels"].tolist()
    assert found["input_ids"].tolist() == expected["input_ids"].tolist()
    answers = [[label for label in row if label != IGNORED] for row in found["labels"].tolist()]
    assert {tokenizer.decode(answer[:-1]) for answer in answers} == set(LABELS)
