"""Our collators, models and corpora under `transformers.Trainer` as it is."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

from sclm_hf.objectives.masked_expression import MaskedExpressionCollator
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.loop import train

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
