import inspect
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments

from sclm_hf import ScGPTConfig, ScGPTForMaskedExpression, ScGPTForSequenceClassification
from sclm_hf.modeling.common.base import InputName
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.registry import FAMILIES

SIZES = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "pad_token_id": 0,
    "cls_token_id": 1,
}


def test_a_name_of_an_input_is_that_name():
    name = InputName("batch_labels")
    assert name == "batch_labels" and hash(name) == hash("batch_labels")
    assert "label" not in name and "batch" in name
    names = inspect.signature(ScGPTForMaskedExpression.forward).parameters
    assert {"batch_labels", "cell_type_labels", "labels"} <= names.keys()


def cells(count: int = 8) -> Dataset:
    columns = {
        "input_ids": [[1, 5, 6, 7 + cell % 4] for cell in range(count)],
        "expression_values": [[0.0, 1.0, 2.0, 3.0]] * count,
        "attention_mask": [[1] * 4] * count,
        "batch_labels": [cell % 2 for cell in range(count)],
        "labels": [cell % 3 for cell in range(count)],
        "donor": ["unused"] * count,
    }
    return Dataset.from_dict(columns)


def test_the_stock_trainer_hands_batches_of_cells_to_the_model_and_not_to_the_metrics(tmp_path):
    torch.manual_seed(0)
    config = ScGPTConfig(**SIZES, num_labels=3, domain_norm="dsbn", use_batch_labels=True, num_batch_labels=2)
    seen = []

    def metrics(prediction):
        seen.append((prediction.predictions.shape, prediction.label_ids.tolist()))
        return {"cells": len(prediction.label_ids)}

    settings = {"max_steps": 1, "per_device_train_batch_size": 4, "use_cpu": True, "report_to": "none"}
    trainer = Trainer(
        ScGPTForSequenceClassification(config),
        TrainingArguments(str(tmp_path), save_strategy="no", **settings),
        train_dataset=cells(),
        eval_dataset=cells(),
        compute_metrics=metrics,
    )
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    assert seen == [((8, 3), [cell % 3 for cell in range(8)])]


# scBERT's heads have a width of their own, and linear models have none
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"linear", "scbert"}))
def test_settings_changed_at_loading_are_looked_at(family, tmp_path):
    make_tiny_checkpoint(family, tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, num_attention_heads=5)
    with pytest.raises(StrictDataclassError, match="must be a multiple of"):
        AutoModel.from_config(config)
    with pytest.raises(StrictDataclassError, match="must be a multiple of"):
        AutoModel.from_pretrained(tmp_path, num_attention_heads=5)


@pytest.mark.slow
def test_documentation_of_models_prints_nothing():
    """transformers' `auto_docstring` complains on stdout about undocumented arguments."""
    modules = ", ".join(family.modeling_module for family in FAMILIES.values())
    result = subprocess.run([sys.executable, "-c", f"import {modules}"], capture_output=True, text=True, check=True)
    assert result.stdout == ""
