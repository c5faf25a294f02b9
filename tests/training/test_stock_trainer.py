"""Our collators, models and corpora under `transformers.Trainer` as it is."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoProcessor, Trainer, TrainingArguments

from sclm_hf import CellCorpus
from sclm_hf.objectives.cell_classification import CellClassificationCollator
from sclm_hf.objectives.masked_expression import MaskedExpressionCollator
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.loop import train

from .h5ad_files import GENES, write_h5ad
from .training_cells import CLS, PAD, CellsInMemory, masked_model


class Rows(torch.utils.data.Dataset):
    """The single cells of `CellsInMemory`, unpadded."""

    def __init__(self, cells):
        self.cells = cells

    def __len__(self):
        return len(self.cells)

    def __getitem__(self, row):
        return {name: values[0] for name, values in self.cells.batch([row]).items()}


class InOrder(CellsInMemory):
    """Hands out its cells in their order."""

    def loader(self, batch_size, *, collator, epoch, start, **_):
        for first in range(start, len(self), batch_size):
            yield collator(self.batch(list(range(first, min(first + batch_size, len(self))))), epoch)


def test_three_steps_of_the_stock_trainer_equal_ours(tmp_path):
    collator = MaskedExpressionCollator(pad_token_id=PAD, special_token_ids=(CLS, PAD))
    cells = InOrder(24)
    shared = {
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "adam_epsilon": 1e-3,
        "lr_scheduler_type": "linear",
        "logging_steps": 1,
        "seed": 0,
    }
    model = masked_model(hidden_dropout_prob=0.0)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "stock"),
        use_cpu=True,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        report_to="none",
        save_strategy="no",
        **shared,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Rows(cells), data_collator=collator)
    trainer.train()
    stock = [record["loss"] for record in trainer.state.log_history if "loss" in record]

    ours = masked_model(hidden_dropout_prob=0.0)
    result = train(ours, cells, collator, TrainingConfig(output_dir=str(tmp_path / "ours"), use_cpu=True, **shared))
    assert [record["loss"] for record in result.history] == pytest.approx(stock, abs=1e-3)
    for a, b in zip(model.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_a_corpus_trains_and_is_evaluated_under_the_stock_trainer(tmp_path):
    folder = make_tiny_checkpoint("scgpt", tmp_path / "tiny", task="annotate", genes=GENES)
    processor = AutoProcessor.from_pretrained(folder)
    shards = [write_h5ad(tmp_path / f"{name}.h5ad", 40, seed=seed) for seed, name in enumerate(("one", "two"))]
    corpora = [CellCorpus(path, processor, label_column="cell_type", window_size=12, group_size=4) for path in shards]
    seen = []

    def metrics(prediction):
        seen.append((prediction.predictions.shape, sorted(prediction.label_ids.tolist())))
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    settings = {"max_steps": 11, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 16}
    trainer = Trainer(
        AutoModelForSequenceClassification.from_pretrained(folder),
        TrainingArguments(
            str(tmp_path / "out"),
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            dataloader_num_workers=2,
            **settings,
        ),
        train_dataset=corpora[0].to_dataset(),
        eval_dataset=corpora[1].to_dataset(),
        data_collator=CellClassificationCollator.from_processor(processor),
        compute_metrics=metrics,
    )
    trainer.train()
    # 10 steps per epoch: the second one has begun, in its own order
    assert trainer.train_dataset.epoch == 1 and 1 < trainer.state.epoch < 2
    result = trainer.evaluate()
    assert 0 < result["eval_loss"] < 20 and 0 <= result["eval_accuracy"] <= 1
    assert seen == [((40, 3), sorted(np.concatenate(corpora[1].numbered["labels"]).tolist()))]
