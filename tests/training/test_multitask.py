"""Several tasks learnt together, from labelled files to a folder with a head for each."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close
from typer.testing import CliRunner

from sclm_hf import CellCorpus, GeneformerConfig, GeneformerForMultiTaskClassification, embed
from sclm_hf.adapters.lora import load_adapter
from sclm_hf.cli.main import app
from sclm_hf.errors import ConfigurationError
from sclm_hf.objectives.multitask_classification import MultiTaskClassificationCollator
from sclm_hf.opening.classifiers import open_multitask_classifier
from sclm_hf.opening.processors import load_processor
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.finetune import finetune
from sclm_hf.training.loop import train
from sclm_hf.training.multitask import multitask_metrics
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments

from .h5ad_files import GENES, LABELS, write_h5ad

TASKS = {"cell_type": list(LABELS), "stage": ["early", "late"]}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = write_h5ad(tmp_path_factory.mktemp("cells") / "cells.h5ad", 60)
    cells = anndata.read_h5ad(path)
    late = np.arange(cells.n_obs) % 2 == 1
    # only late cells express the last genes
    cells.X = cells.X.toarray() * (late[:, None] | (np.arange(cells.n_vars) < 25))
    cells.obs["stage"] = pd.Categorical(np.where(late, "late", "early"))
    cells.write_h5ad(path)
    return str(path)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_checkpoint("geneformer", tmp_path_factory.mktemp("base") / "base", genes=GENES)


def config(folder, **settings):
    settings = {"per_device_train_batch_size": 20, "learning_rate": 1e-2, "logging_steps": 1, **settings}
    return TrainingConfig(output_dir=str(folder), lr_scheduler_type="constant", use_cpu=True, **settings)


@pytest.mark.filterwarnings("ignore:The embeddings in")
@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.slow
def test_all_tasks_are_learnt_together(base, file, tmp_path, lora):
    arguments = FinetuneArguments(
        str(base), task_columns=list(TASKS), task_weights=[1.0, 0.5], head="lora" if lora else "full"
    )
    result = finetune(DataArguments([file], eval_files=[file]), arguments, config(tmp_path, num_train_epochs=30))
    guess = np.log(3) + 0.5 * np.log(2)
    assert result.metrics["eval_loss"] < 0.6 * guess
    assert {"eval_accuracy", "eval_cell_type_accuracy", "eval_stage_macro_f1"} <= result.metrics.keys()
    assert min(result.metrics["eval_cell_type_accuracy"], result.metrics["eval_stage_accuracy"]) > 0.6

    model, info = GeneformerForMultiTaskClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert (model.config.task_names, model.config.task_weights) == (list(TASKS), [1.0, 0.5])
    assert model.config.label_names_per_task == list(TASKS.values())
    assert model.config.num_labels_per_task == [3, 2]
    if lora:
        batch = next(iter(CellCorpus(file, load_processor(str(tmp_path))).loader(8)))
        del batch["cell_ids"]
        adapted = load_adapter(tmp_path / "adapter")
        assert_close(adapted(**batch).logits, model.eval()(**batch).logits, atol=1e-5, rtol=1e-5)
    assert embed(anndata.read_h5ad(file), tmp_path).obsm["X_geneformer"].shape == (60, 32)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_loss_of_a_step_is_the_weighted_sum_of_the_means_over_its_cells(base, file, tmp_path, accumulation):
    """However the cells of the step are cut into batches."""
    model = open_multitask_classifier(str(base), TASKS, [1.0, 0.25])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    processor = load_processor(str(base))
    corpus = CellCorpus(file, processor, task_columns=TASKS, group_size=20)
    collator = MultiTaskClassificationCollator.from_processor(processor, num_labels={"cell_type": 3, "stage": 2})
    with torch.no_grad():
        whole = model.eval()(**next(iter(corpus.loader(20, collator=collator))))
    assert_close(whole.loss, whole.losses[0] + 0.25 * whole.losses[1])
    settings = {"max_steps": 1, "per_device_train_batch_size": 20 // accumulation}
    settings["gradient_accumulation_steps"] = accumulation
    history = train(model, corpus, collator, config(tmp_path, **settings)).history
    assert history[0]["loss"] == pytest.approx(whole.loss.item(), abs=1e-5)


def test_the_command_learns_several_tasks(base, file, tmp_path):
    words = ["finetune", "--train_files", file, "--model_name_or_path", str(base), "--use_cpu", "--max_steps", "1"]
    words += ["--task_columns", *TASKS, "--task_weights", "1", "0.5", "--output_dir", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert GeneformerForMultiTaskClassification.from_pretrained(tmp_path).config.task_names == list(TASKS)


def test_attention_over_genes_may_be_learnt_as_well(file, tmp_path):
    pooled = make_tiny_checkpoint("geneformer", tmp_path / "base", genes=GENES)
    GeneformerConfig.from_pretrained(pooled, multitask_pooling="attention").save_pretrained(pooled)
    arguments = FinetuneArguments(str(pooled), task_columns=list(TASKS))
    finetune(DataArguments([file]), arguments, config(tmp_path / "out", max_steps=2))
    before = open_multitask_classifier(str(pooled), TASKS).attention_pool.attention_weights
    after = GeneformerForMultiTaskClassification.from_pretrained(tmp_path / "out").attention_pool.attention_weights
    assert not torch.equal(before, after)


def test_metrics_of_tasks_and_their_means():
    logits = np.array([[9, 0, 0, 1, 0], [0, 9, 0, 1, 0], [0, 0, 9, 1, 0], [9, 0, 0, 1, 0]], np.float32)
    labels = np.array([[0, 0], [1, 1], [2, 0], [1, 1]])
    metrics = multitask_metrics({"cell_type": "abc", "stage": "xy"})(logits, labels)
    assert (metrics["cell_type_accuracy"], metrics["stage_accuracy"], metrics["accuracy"]) == (0.75, 0.5, 0.625)
    assert metrics["macro_f1"] == pytest.approx((metrics["cell_type_macro_f1"] + metrics["stage_macro_f1"]) / 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "Give `label_column`, or `task_columns`"),
        ({"label_column": "stage", "task_columns": ["stage"]}, "not both"),
        ({"task_columns": ["stage", "stage"]}, "twice: stage, stage"),
        ({"task_columns": ["stage"], "task_weights": [1.0, 2.0]}, "each of the 1 `task_columns`, got 2"),
        ({"label_column": "stage", "task_weights": [1.0]}, "each of the 0 `task_columns`, got 1"),
    ],
)
def test_arguments_that_contradict_one_another(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        FinetuneArguments("model", **settings)


def test_families_without_such_a_head_are_told(file, tmp_path):
    other = make_tiny_checkpoint("scgpt", tmp_path / "base", genes=GENES)
    arguments = FinetuneArguments(str(other), task_columns=list(TASKS))
    with pytest.raises(ConfigurationError, match="scGPT has no head for several tasks; Geneformer has"):
        finetune(DataArguments([file]), arguments, config(tmp_path / "out"))
