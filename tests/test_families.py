"""One door: the same commands and functions run on every family of the registry, on real cells."""

import json
import logging
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
import torch
import transformers
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, AutoProcessor
from typer.testing import CliRunner

from sclm_hf import annotate, embed
from sclm_hf.adapters.lora import add_lora, load_adapter
from sclm_hf.cli.main import app
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.opening.classifiers import open_classifier
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.registry import FAMILIES
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.finetune import finetune
from sclm_hf.training.pretrain import pretrain
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments
from sclm_hf.training.settings.pretrain import PretrainArguments

LABELS = ["CD14+ Monocyte", "CD19+ B", "CD56+ NK"]
N_CELLS, N_GENES, STEPS = 30, 96, 32


def blood_cells() -> anndata.AnnData:
    """Counts of scanpy's `pbmc68k_reduced`; made-up ones where scanpy does not bring it along."""
    path = Path(scanpy.__file__).parent / "datasets" / "10x_pbmc68k_reduced.h5ad"
    if not path.exists():
        return made_up_cells()
    with warnings.catch_warnings():
        # the file is as old as the first format
        warnings.simplefilter("ignore")
        cells = scanpy.read_h5ad(path)
    cells = cells[cells.obs["bulk_labels"].isin(LABELS)]
    logarithms = cells.raw.X.toarray()
    normalized = np.expm1(logarithms)
    # the smallest value of a cell is one count
    smallest = np.where(normalized > 0, normalized, np.inf).min(axis=1, keepdims=True)
    counts = np.rint(normalized / smallest).astype(np.float32)
    labels = cells.obs["bulk_labels"].astype(str).to_numpy()
    return as_cells(counts, list(cells.raw.var_names), labels)


def made_up_cells() -> anndata.AnnData:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, len(LABELS), 200)
    rates = generator.gamma(1.0, 1.0, (len(LABELS), N_GENES))
    counts = generator.poisson(rates[labels]).astype(np.float32)
    return as_cells(counts, [f"GENE{number}" for number in range(N_GENES)], np.array(LABELS)[labels])


def as_cells(counts: np.ndarray, genes: list[str], labels: np.ndarray) -> anndata.AnnData:
    """The first cells, a third of each label, and the genes that most of them express."""
    rows = np.sort(np.concatenate([np.flatnonzero(labels == label)[: N_CELLS // 3] for label in LABELS]))
    columns = np.sort(np.argsort(-(counts[rows] > 0).sum(axis=0), kind="stable")[:N_GENES])
    obs = pd.DataFrame({"cell_type": pd.Categorical(labels[rows])}, index=[f"cell{row}" for row in rows])
    return anndata.AnnData(counts[rows][:, columns], obs=obs, var=pd.DataFrame(index=[genes[c] for c in columns]))


def run(*arguments) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    adata = blood_cells()
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    adata.write_h5ad(path)
    return adata, path


DEFAULT = ("cellplm", "linear")
"""Families of the default suite: one of samples, one of z-scores; most other tests use bins. The others are slow."""

pytestmark = pytest.mark.filterwarnings("ignore:.*are taken for one sample")


PARAMS = [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


@pytest.fixture(scope="module", params=PARAMS)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def base(family, cells, tmp_path_factory):
    folder = tmp_path_factory.mktemp(family.name) / "base"
    return make_tiny_checkpoint(family.name, folder, genes=cells[0].var_names)


@pytest.fixture(scope="module")
def adapted(family, base, cells, tmp_path_factory):
    """What `sclm-hf finetune` makes of the base, with its default, a LoRA."""
    if not family.lora_target_modules:
        pytest.skip(f"{family.title} has no layer that a LoRA could adapt")
    folder = tmp_path_factory.mktemp("adapted")
    flags = {
        "train_files": cells[1],
        "label_column": "cell_type",
        "model_name_or_path": base,
        "output_dir": folder,
        "max_steps": STEPS,
        "per_device_train_batch_size": N_CELLS,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
    }
    run("finetune", "--use_cpu", *(word for name, value in flags.items() for word in (f"--{name}", value)))
    return folder


def losses_of(records) -> np.ndarray:
    losses = np.array([record["loss"] for record in records if "loss" in record])
    assert len(losses) == STEPS and np.isfinite(losses).all()
    return losses


def assert_learned(losses: np.ndarray) -> None:
    """The loss ends clearly below that of a guess, which is where a model ends that no gradient reaches."""
    assert losses[-5:].mean() < 0.95 * np.log(len(LABELS))


def test_embed(family, base, cells, tmp_path):
    adata, path = cells
    run("embed", path, tmp_path / "out.h5ad", "--model", base, "--device", "cpu")
    key = f"X_{family.name}"
    written = anndata.read_h5ad(tmp_path / "out.h5ad").obsm[key]
    assert written.shape[0] == adata.n_obs and np.isfinite(written).all() and written.std(axis=0).max() > 0
    np.testing.assert_allclose(embed(adata, base, device="cpu").obsm[key], written, atol=1e-5)


def test_a_cell_does_not_depend_on_its_batch(family, base, cells):
    adata, _ = cells
    key = f"X_{family.name}"
    together = embed(adata, base, batch_size=16, device="cpu").obsm[key]
    # where the model sees a sample whole, a part of it would be another sample
    step = -1 if AutoProcessor.from_pretrained(base).context == "sample" else -4
    backwards = embed(adata[::step].copy(), base, batch_size=5, device="cpu").obsm[key]
    np.testing.assert_allclose(backwards, together[::step], atol=1e-5)


def test_finetune_with_lora(adapted):
    """Every adapted layer has moved: the second matrix of a LoRA begins at zero."""
    losses_of([json.loads(line) for line in (adapted / "training_log.jsonl").read_text().splitlines()])
    weights = load_file(adapted / "adapter" / "adapter_model.safetensors")
    moved = [bool(weight.any()) for name, weight in weights.items() if "lora_B" in name]
    assert moved and all(moved)


def test_adapter_reloads_equal_and_annotates(adapted, cells, tmp_path):
    adata, path = cells
    run("annotate", path, tmp_path / "out.h5ad", "--model", adapted / "adapter", "--device", "cpu")
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert set(written.obs["sclm_prediction"]) <= set(LABELS)
    merged = annotate(adata, adapted, device="cpu")
    probabilities = written.obsm["sclm_probabilities"]
    np.testing.assert_allclose(merged.obsm["sclm_probabilities"], probabilities, atol=2e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_a_lora_without_a_layer_to_adapt_is_refused(family, base):
    if family.lora_target_modules:
        pytest.skip(f"{family.title} has layers to adapt")
    with pytest.raises(ConfigurationError, match=f"{family.title} has no layer that a LoRA could adapt.*--head full"):
        add_lora(open_classifier(str(base), LABELS))


def test_lora_trains_few_weights(family, adapted):
    model = load_adapter(adapted / "adapter", is_trainable=True)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    heads = tuple(f".{head}." for head in family.classification_head)
    assert any("lora_" in name for name in trained)
    assert all("lora_" in name or any(head in name for head in heads) for name in trained)


def test_finetune_all_weights_and_reload(base, cells, tmp_path):
    settings = {"max_steps": STEPS, "per_device_train_batch_size": N_CELLS, "learning_rate": 5e-3, "logging_steps": 1}
    settings |= {"lr_scheduler_type": "constant", "use_cpu": True}
    result = finetune(
        DataArguments([str(cells[1])]),
        FinetuneArguments(str(base), "cell_type", head="full", partners=False),
        TrainingConfig(str(tmp_path / "tuned"), **settings),
    )
    assert_learned(losses_of(result.history))
    one = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned")
    one.save_pretrained(tmp_path / "again")
    AutoProcessor.from_pretrained(tmp_path / "tuned").save_pretrained(tmp_path / "again")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again")
    assert_close(again.state_dict(), one.state_dict(), rtol=0, atol=0)
    assert list(one.config.id2label.values()) == LABELS
    scores = [annotate(cells[0], folder, device="cpu") for folder in (tmp_path / "tuned", tmp_path / "again")]
    assert_close(*(torch.tensor(score.obsm["sclm_probabilities"]) for score in scores), rtol=0, atol=0)


def test_pretrain_on_the_objectives_of_the_family(family, cells, tmp_path):
    base = make_tiny_checkpoint(family.name, tmp_path / "base", task="pretrain", genes=cells[0].var_names)
    settings = {"max_steps": 2, "per_device_train_batch_size": N_CELLS, "logging_steps": 1, "use_cpu": True}
    data, config = DataArguments([str(cells[1])]), TrainingConfig(str(tmp_path / "out"), **settings)
    if not family.objectives:
        with pytest.raises(ConfigurationError, match=f"{family.title} cannot be pre-trained: {family.no_objective}"):
            pretrain(data, PretrainArguments(str(base)), config)
    for objective in family.objectives:
        config.output_dir = str(tmp_path / objective)
        result = pretrain(data, PretrainArguments(str(base), objective=objective), config)
        assert np.isfinite([record["loss"] for record in result.history if "loss" in record]).all()


def test_a_random_head_is_said(family, base, cells, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("sclm_hf"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="sclm_hf"):
        open_classifier(str(base), LABELS)
    assert any(f"starts at random in `{head}`" in caplog.text for head in family.classification_head), caplog.text
    with pytest.raises(CheckpointError, match="random"):
        annotate(cells[0], base)


SUFFIXES = {
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForCausalLM": "AutoModelForCausalLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
}


def test_auto_classes_are_registered_where_they_mean_something(family):
    assert {"AutoModel", "AutoModelForPreTraining", "AutoModelForSequenceClassification"} <= set(family.auto_classes)
    for suffix, auto_class in SUFFIXES.items():
        named = [model for model in family.models if model.endswith(suffix)]
        registered = family.auto_classes.get(auto_class)
        assert registered in named if named else registered is None or auto_class == "AutoModelForMaskedLM"
    for auto_class, model in family.auto_classes.items():
        config = transformers.AutoConfig.for_model(family.name)
        assert getattr(transformers, auto_class)._model_mapping[type(config)].__name__ == model


def test_masked_language_models_predict_classes(family, base):
    """`AutoModelForMaskedLM` promises logits over classes, which a regression of expression has not."""
    if "AutoModelForMaskedLM" not in family.auto_classes:
        pytest.skip(f"{family.title} predicts no classes of masked tokens")
    model = transformers.AutoModelForMaskedLM.from_pretrained(base)
    ids = torch.arange(8)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "expression_values" in AutoProcessor.from_pretrained(base).model_input_names:
        inputs["expression_values"] = torch.ones(1, 8, dtype=torch.long)
    logits = model.eval()(**inputs).logits
    assert logits.ndim == 3 and logits.shape[:2] == ids.shape and logits.shape[2] > 1
