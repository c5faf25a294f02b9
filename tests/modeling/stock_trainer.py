"""What `transformers.Trainer`, as it is, finds in every head of every family."""

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments
from transformers.utils.generic import find_labels


def costs_a_second(test):
    """For a test of every head, of which the default run takes the family's first head alone."""
    test.costs_a_second = True
    return test


def costs_seconds(test):
    """For a test of every head, of which the default run takes the first head of `EVERYDAY` families alone."""
    test.costs_seconds = True
    return test


class StockTrainerTester:
    """Mixin of `ModelTester`: the head's tiny batch as rows of a `datasets.Dataset`."""

    def rows(self, batch: dict[str, torch.Tensor]) -> Dataset:
        """A row for each cell, with a column that no model takes; what cannot be one is taken out of the batch."""
        columns = {name: tensor.tolist() for name, tensor in batch.items()}
        return Dataset.from_dict(columns | {"cell_ids": list(range(len(batch["labels"])))})

    def stock_trainer(self, model, rows: Dataset, folder, **changes) -> Trainer:
        settings = {
            "output_dir": str(folder),
            "max_steps": 2,
            "per_device_train_batch_size": 5,
            "per_device_eval_batch_size": 64,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
        }
        arguments = TrainingArguments(**settings | changes)
        return Trainer(
            model,
            arguments,
            train_dataset=rows,
            eval_dataset=rows,
            compute_metrics=count_targets,
        )

    def test_labels_are_the_only_target(self, head_class):
        assert find_labels(head_class) == ["labels"] and find_labels(self.base_class) == []

    @costs_a_second
    def test_stock_trainer_reports_the_loss_and_metrics_of_labels(self, head_class, tmp_path):
        batch = self.inputs(head_class, labels=True)
        model = self.build(head_class, **self.without_dropout())
        trainer = self.stock_trainer(model, self.rows(batch), tmp_path)
        trainer.train()
        expected = model.eval()(**batch)
        metrics = trainer.evaluate()
        np.testing.assert_allclose(metrics["eval_loss"], expected.loss.item(), rtol=1e-5)
        assert metrics["eval_targets"] == batch["labels"].numel()
        found = trainer.predict(trainer.eval_dataset)
        main = "logits" if "logits" in expected else "expression_prediction"
        np.testing.assert_allclose(found.predictions, expected[main].detach(), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found.label_ids, batch["labels"])


def count_targets(prediction) -> dict[str, int]:
    assert isinstance(prediction.predictions, np.ndarray)
    return {"targets": prediction.label_ids.size}
