"""What `fit`, processors, cards and adapters of all task-specific models have in common, shown on one."""

import dataclasses

import anndata
import pytest
from typer.testing import CliRunner

import sclm_hf
from sclm_hf.adapters.lora import add_lora, save_adapter
from sclm_hf.cli.main import app
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.opening.specialists import load_specialist
from sclm_hf.opening.weights import open_model

from .common import labelled_cells

SMALL = {"patch_size": 16, "num_attention_heads": 4, "intermediate_size": 24}
TRAINING = {"use_cpu": True, "num_train_epochs": 2, "per_device_train_batch_size": 16, "save_steps": 4}


def fit(folder, cells, **training):
    return sclm_hf.fit(
        "ciform", cells, folder, model_config=SMALL, training=TRAINING | training, label_key="cell_type"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that has seen every cell once."""
    folder = tmp_path_factory.mktemp("ciform") / "model"
    fit(folder, labelled_cells(), max_steps=4)
    return folder


@pytest.fixture(scope="module")
def adapter(folder):
    """A LoRA of it, without processor and manifest."""
    adapted = add_lora(open_model(str(folder), "AutoModelForSequenceClassification"), r=2)
    save_adapter(adapted, folder.parent / "adapter")
    return folder.parent / "adapter"


def with_other_labels(cells):
    labels = list(cells.obs["cell_type"])
    cells.obs["cell_type"] = labels[1:] + labels[:1]
    return cells


def with_other_names(cells):
    cells.obs_names = [f"other {name}" for name in cells.obs_names]
    return cells


@pytest.mark.parametrize(("change", "what"), [(with_other_labels, "labels"), (with_other_names, "names")])
def test_a_run_goes_on_with_its_own_cells_only(folder, change, what):
    with pytest.raises(CheckpointError, match=f"written with other cells .* have other {what}"):
        fit(folder, change(labelled_cells()), resume_from_checkpoint="last")


def test_a_run_goes_on(folder, tmp_path):
    fit(tmp_path, labelled_cells(), max_steps=4)
    assert fit(tmp_path, labelled_cells(), resume_from_checkpoint="last").step == 8


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_train_epochs", "abc", r"int \| None"),
        ("learning_rate", "fast", r"float \| None"),
        ("max_steps", "ten", "int"),
        ("per_device_train_batch_size", 16.5, "int"),
        ("use_cpu", "False", "bool"),
    ],
)
def test_values_of_another_kind_are_refused(name, value, expected, tmp_path):
    with pytest.raises(ConfigurationError, match=rf"`training` \(`--training`\): `{name}` must be {expected}, got"):
        fit(tmp_path / "x", labelled_cells(), **{name: value})


def test_truth_values_are_read_as_python_writes_them(tmp_path):
    labelled_cells().write_h5ad(tmp_path / "cells.h5ad")
    arguments = ["fit", "ciform", str(tmp_path / "cells.h5ad"), "-o", str(tmp_path / "model"), "--epochs", "1"]
    arguments += ["--set", "label_key=cell_type", "--training", "use_cpu=True", "--training", "save_merged=False"]
    for name, value in SMALL.items():
        arguments += ["--model-config", f"{name}={value}"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "--label-key cell_type" in done.output and "None" not in done.output


def test_a_processor_with_other_labels_is_refused(folder):
    loaded = load_specialist(folder)
    turned = dataclasses.replace(loaded.processor, labels=loaded.processor.labels[::-1])
    said = "does not fit the CIForm model: label 0 is 'type 0' in the configuration and 'type 2' in the processor"
    with pytest.raises(ConfigurationError, match=said):
        load_specialist(loaded.model, processor=turned)
    with pytest.raises(CheckpointError, match="label 0 is 'type 0'"):
        load_specialist(folder, processor=turned)
    loaded.model.config.id2label = {number: f"LABEL_{number}" for number in range(3)}
    assert load_specialist(loaded.model, processor=turned).processor is turned


def test_an_adapter_has_seen_the_cells_of_its_base(adapter, tmp_path):
    cells = labelled_cells()
    with pytest.raises(ConfigurationError, match=r"60 of the 60 cells .* stand in the training manifest"):
        sclm_hf.evaluate(cells, str(adapter), label_key="cell_type")
    cells.write_h5ad(tmp_path / "cells.h5ad")
    arguments = ["evaluate", str(tmp_path / "cells.h5ad"), str(tmp_path / "scored.h5ad"), "--model", str(adapter)]
    done = CliRunner().invoke(app, [*arguments, "--label-key", "cell_type", "--seen", "score"])
    assert done.exit_code == 0, (done.output, done.exception)
    said = " ".join(done.output.split())
    assert "60 of the cells stand in the training manifest" in said
    assert "no training manifest of its own: whether it saw the cells is unknown" in said
    facts = anndata.read_h5ad(tmp_path / "scored.h5ad").uns["sclm_hf"]["sclm_prediction"]
    assert facts["n_seen"] == 60 and not facts["has_manifest"]


def test_an_adapter_takes_the_processor_of_its_base(folder, adapter, tmp_path):
    assert load_specialist(adapter).processor == load_specialist(folder).processor
    assert len(sclm_hf.annotate(labelled_cells(), str(adapter)).obs["sclm_prediction"]) == 60


def test_the_card_of_an_adapter_is_that_of_an_adapter(adapter):
    done = CliRunner().invoke(app, ["card", str(adapter)])
    assert done.exit_code == 1 and "A new card needs the licence of the checkpoint" in done.output
    done = CliRunner().invoke(app, ["card", str(adapter), "--license", "mit"])
    assert done.exit_code == 0, (done.output, done.exception)
    text = (adapter / "README.md").read_text()
    assert "base_model: ../model" in text and "base_model_relation: adapter" in text and "- lora" in text
