import anndata as ad
import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

from sclm_hf import CellCorpus
from sclm_hf.errors import ConfigurationError, CorpusError
from sclm_hf.objectives.cell_text_contrastive import CellTextContrastiveCollator
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.loop import train
from sclm_hf.training.validation import classification_metrics

from ..dual_encoders import TEXTS, tiny_dual_encoder
from ..training.h5ad_files import write_h5ad


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return tiny_dual_encoder(tmp_path_factory.mktemp("both"))


def rows(labels, n_genes=4):
    n = len(labels)
    return {
        "input_ids": np.ones((n, n_genes), np.int64),
        "attention_mask": np.ones((n, n_genes), np.int64),
        "cell_ids": np.arange(n),
        "labels": np.asarray(labels),
    }


def test_each_text_comes_once_however_many_cells_it_describes(both):
    collator = CellTextContrastiveCollator.from_processor(both[1], list(TEXTS.values()))
    batch = collator(rows([2, 0, 2, -100]))
    assert batch["text_labels"].tolist() == [0, 2] and batch["labels"].tolist() == [2, 0, 2, -100]
    assert "cell_ids" not in batch and batch["text_input_ids"].shape == batch["text_attention_mask"].shape


def test_a_cell_draws_one_of_several_texts_by_its_id_and_the_epoch(both):
    texts = [["A lymphocyte.", "A cell."], "A thymus."]
    collator = CellTextContrastiveCollator.from_processor(both[1], texts)
    drawn = [set(map(tuple, collator(rows([0] * 8), epoch)["text_input_ids"].tolist())) for epoch in range(2)]
    assert len(drawn[0]) == 2
    alone = [
        collator({name: values[i : i + 1] for name, values in rows([0] * 8).items()})["text_input_ids"].tolist()[0]
        for i in range(8)
    ]
    padded = {tuple(word for word in text if word) for text in alone}
    assert padded == {tuple(word for word in text if word) for text in drawn[0]}


def test_evaluation_gets_one_text_of_every_label_in_order(both):
    texts = [["A lymphocyte.", "A cell."], "A thymus."]
    collator = CellTextContrastiveCollator.from_processor(both[1], texts, all_labels=True)
    assert collator(rows([1]))["text_labels"].tolist() == [0, 1]


def test_labels_without_texts_are_refused(both):
    with pytest.raises(ConfigurationError, match=r"labels \[1\] have no text"):
        CellTextContrastiveCollator.from_processor(both[1], ["A cell.", []])
    with pytest.raises(CorpusError, match="do not fit"):
        CellTextContrastiveCollator.from_processor(both[1], ["A cell."])(rows([1]))


@pytest.mark.slow
def test_held_out_cells_get_their_type_from_its_description(tmp_path):
    model, processor = tiny_dual_encoder(tmp_path)
    paths = [write_h5ad(tmp_path / f"{name}.h5ad", 60, seed=seed, others=0.1) for seed, name in enumerate("ab")]
    corpus, held_out = (CellCorpus(path, processor.cell_processor, label_column="cell_type") for path in paths)
    texts = [TEXTS[name] for name in corpus.label_names]
    collator = CellTextContrastiveCollator.from_processor(processor, texts)
    config = TrainingConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=40,
        per_device_train_batch_size=30,
        learning_rate=1e-2,
        save_steps=0,
        use_cpu=True,
    )
    every = CellTextContrastiveCollator.from_processor(processor, texts, all_labels=True)
    result = train(
        model,
        corpus,
        collator,
        config,
        eval_corpus=held_out,
        eval_collator=every,
        compute_metrics=classification_metrics,
        processor=processor,
    )
    assert result.metrics["eval_accuracy"] > 0.9
    assert (tmp_path / "out" / "cell_processor").is_dir()


def test_the_stock_trainer_trains_it(tmp_path):
    model, processor = tiny_dual_encoder(tmp_path)
    model.lock("text")
    path = write_h5ad(tmp_path / "a.h5ad", 20, others=0.1)
    corpus = CellCorpus(path, processor.cell_processor, label_column="cell_type", shuffle=False)
    collator = CellTextContrastiveCollator.from_processor(processor, list(TEXTS.values()))
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "stock"),
        max_steps=2,
        per_device_train_batch_size=10,
        remove_unused_columns=False,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = Trainer(model, arguments, data_collator=collator, train_dataset=corpus.to_dataset())
    trainer.train()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("cell_model.") for name in changed) and "logit_scale" in changed
    assert not any(name.startswith("text_model.") for name in changed)


def test_cells_of_the_file_are_read_as_by_any_other_verb(tmp_path, both):
    cells = ad.read_h5ad(write_h5ad(tmp_path / "a.h5ad", 5))
    encoded = both[1](cells, "A cell.")
    assert set(encoded) == {*both[1].model_input_names}
