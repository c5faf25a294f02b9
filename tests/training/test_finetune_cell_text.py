"""`sclm-hf finetune --cell_model`: projector first, then the language model, and a folder that annotates."""

import numpy as np
import pytest
import torch

import sclm_hf
from sclm_hf.errors import ConfigurationError
from sclm_hf.opening.tiny import LABELS, make_tiny_checkpoint
from sclm_hf.opening.weights import open_model
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.training import finetune_cell_text as finetune_cell_text_module
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.finetune_cell_text import finetune_cell_text
from sclm_hf.training.settings.cell_text import CellTextArguments
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments

from ..modeling.cell_text.tiny import small_llama

anndata = pytest.importorskip("anndata")

KIND = "AutoModelForMultimodalLM"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With cells, an encoder and a language model."""
    folder = tmp_path_factory.mktemp("data")
    make_tiny_checkpoint("scgpt", folder / "encoder")
    genes = list(sclm_hf.GeneTokenizer.from_pretrained(folder / "encoder").gene_vocabulary)[3:33]
    cells = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (24, 30)).astype(np.float32))
    cells.var_names, cells.obs["type"] = genes, [LABELS[row % 3] for row in range(24)]
    cells.write_h5ad(folder / "cells.h5ad")
    for part in small_llama():
        part.save_pretrained(folder / "words")
    return folder


def run(folder, output, language, head, soft=None, **settings):
    return finetune_cell_text(
        DataArguments([str(folder / "cells.h5ad")], eval_share=0.25),
        FinetuneArguments(str(language), label_column="type", head=head),
        CellTextArguments(**{"cell_model": str(folder / "encoder"), "num_cell_tokens": 2} | (soft or {})),
        TrainingConfig(str(output), per_device_train_batch_size=8, learning_rate=1e-2, use_cpu=True, **settings),
    )


def test_two_stages_and_a_folder_that_annotates(folder, tmp_path):
    result = run(folder, tmp_path / "out", folder / "words", "lora")
    assert 0 <= result.metrics["eval_accuracy"] <= 1 and result.metrics["eval_log_loss"] > 0
    encoder = open_model(str(folder / "encoder"), "AutoModel")
    first, last = (open_model(str(tmp_path / "out" / part), KIND).cell_text for part in ("projector", ""))
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(last.cell_model.state_dict()[name], tensor), name
    before = small_llama()[0].state_dict()
    after = {name: weight[: len(before[name])] for name, weight in first.language_model.state_dict().items()}
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not torch.equal(first.projector.out.weight, last.projector.out.weight)
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    whole, adapter = (
        sclm_hf.annotate(cells, path, device="cpu").obsm["sclm_probabilities"]
        for path in (tmp_path / "out", tmp_path / "out" / "adapter")
    )
    np.testing.assert_allclose(whole, adapter, atol=1e-5)
    ((path, _),) = run_files("annotate", folder / "cells.h5ad", tmp_path / "out.h5ad", tmp_path / "out", device="cpu")
    np.testing.assert_allclose(anndata.read_h5ad(path).obsm["sclm_probabilities"], whole, atol=1e-5)


def test_an_epoch_holds_every_cell_below_an_encoder_of_samples(folder, tmp_path):
    make_tiny_checkpoint("cellplm", tmp_path / "encoder")
    (tmp_path / "words").symlink_to(folder / "words")
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    cells.var_names = list(sclm_hf.GeneTokenizer.from_pretrained(tmp_path / "encoder").gene_vocabulary)[-30:]
    cells.obs["batch"] = ["a"] * 18 + ["b"] * 6
    cells.write_h5ad(tmp_path / "cells.h5ad")
    result = run(tmp_path, tmp_path / "out", tmp_path / "words", "full", soft={"projector_epochs": 0})
    # a sample of 18 in batches of 8, or one of 6
    assert result.step in (1, 3)


def test_labels_that_are_the_same_to_the_model_are_refused_before_training(folder, tmp_path):
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    cells.obs["type"] = ["B", "\u200bB", "T"] * 8
    cells.write_h5ad(tmp_path / "cells.h5ad")
    for name in ("encoder", "words"):
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(ConfigurationError, match="same tokens"):
        run(tmp_path, tmp_path / "out", tmp_path / "words", "full")
    assert not (tmp_path / "out").exists()


def test_a_label_that_is_a_marker_stands_for_no_cell(folder, tmp_path):
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    cells.obs["type"] = ["<cell>", "B", "T"] * 8
    cells.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "encoder").symlink_to(folder / "encoder")
    (tmp_path / "words").symlink_to(folder / "words")
    run(tmp_path, tmp_path / "out", tmp_path / "words", "full", soft={"projector": "resampler"})
    labelled = sclm_hf.annotate(cells, tmp_path / "out", device="cpu")
    assert list(labelled.uns["sclm_hf"]["sclm_prediction"]["label_names"]) == ["<cell>", "B", "T"]


@pytest.mark.slow
def test_the_language_model_can_learn_in_full(folder, tmp_path):
    run(folder, tmp_path, folder / "words", "full", soft={"projector_epochs": 0})
    trained = open_model(str(tmp_path), KIND).cell_text
    assert not torch.equal(trained.language_model.lm_head.weight[:8], small_llama()[0].lm_head.weight[:8])
    encoder = open_model(str(folder / "encoder"), "AutoModel").state_dict()
    assert all(torch.equal(trained.cell_model.state_dict()[name], tensor) for name, tensor in encoder.items())


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"num_cell_tokens": 4}, "give `cell_model`"), ({"cell_model": "x", "projector_epochs": -1}, "at least 0")],
)
def test_settings_that_mean_nothing_are_refused(settings, told):
    with pytest.raises(ConfigurationError, match=told):
        CellTextArguments(**settings)


def test_heads_of_classifiers_are_refused(folder, tmp_path):
    with pytest.raises(ConfigurationError, match="lora or full"):
        run(folder, tmp_path, folder / "words", "probe")


@pytest.mark.parametrize("projector_epochs", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_between_its_stages_ends_the_same(folder, tmp_path, monkeypatch, projector_epochs):
    soft = {"projector_epochs": projector_epochs}
    whole = run(folder, tmp_path / "whole", folder / "words", "lora", soft)
    with monkeypatch.context() as patched:
        patched.setattr(finetune_cell_text_module, "_adapted", killed)
        with pytest.raises(KeyboardInterrupt):
            run(folder, tmp_path / "cut", folder / "words", "lora", soft)
    resumed = run(folder, tmp_path / "cut", folder / "words", "lora", soft, resume_from_checkpoint="last")
    assert resumed.metrics == whole.metrics
    for part in ("model.safetensors", "projector/model.safetensors"):
        assert (tmp_path / "cut" / part).read_bytes() == (tmp_path / "whole" / part).read_bytes()


@pytest.mark.slow
def test_a_checkpoint_of_the_second_stage_can_be_named(folder, tmp_path):
    run(folder, tmp_path, folder / "words", "lora")
    (checkpoint,) = (tmp_path / "checkpoints").glob("step-*")
    result = run(folder, tmp_path, folder / "words", "lora", resume_from_checkpoint=str(checkpoint))
    assert result.step == int(checkpoint.name.removeprefix("step-"))


def killed(*_):
    raise KeyboardInterrupt
