"""Supervised pre-training from files whose label names differ in grain."""

import json

import anndata as ad
import numpy as np
import pytest
from transformers import AutoModel, AutoModelForSequenceClassification

from sclm_hf import annotate
from sclm_hf.errors import ConfigurationError
from sclm_hf.registry import FAMILIES
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.finetune import finetune
from sclm_hf.training.pretrain import pretrain
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments
from sclm_hf.training.settings.pretrain import PretrainArguments
from sclm_hf.training.supervision import balanced_weights, label_set_metrics, ldam_margins

from .h5ad_files import LABELS, write_h5ad

ONTOLOGY = """
tree:
  lymphocyte:
    T cell:
    NK cell:
  B cell:
"""


@pytest.fixture
def files(tmp_path):
    """Of 60 cells each: one file names all three types, the other tells T and NK cells apart from B cells only."""
    (tmp_path / "small.yaml").write_text(ONTOLOGY)
    fine, coarse = (
        write_h5ad(tmp_path / f"{name}.h5ad", 60, seed=seed, others=0.1)
        for seed, name in enumerate(("fine", "coarse"))
    )
    for path in (fine, coarse):
        cells = ad.read_h5ad(path)
        cells.obs["batch"] = np.repeat(["one", "two"], 30)
        cells.write_h5ad(path)
    cells.obs["kind"] = np.where(cells.obs.pop("cell_type") == "B cell", "B cells", "lymphocytes")
    cells.write_h5ad(coarse)
    return [str(fine), str(coarse)]


def run(files, folder, family, *, steps=60, model_config=None, **settings):
    arguments = PretrainArguments(
        family=family,
        objective="supervised",
        label_column=["cell_type", "kind"],
        ontology=str(folder / "small.yaml"),
        model_config=json.dumps(FAMILIES[family].tiny | (model_config or {})),
        **settings,
    )
    config = TrainingConfig(
        output_dir=str(folder / "out"),
        max_steps=steps,
        per_device_train_batch_size=30,
        learning_rate=1e-2,
        save_steps=0,
        use_cpu=True,
    )
    return pretrain(DataArguments(files, eval_files=files), arguments, config)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("scgpt", "tgpt", "scbert", "iseeek")]


@pytest.mark.parametrize("family", ["cellplm", *SLOW])
def test_a_tiny_model_learns_from_two_files_whose_names_differ_in_grain(files, tmp_path, family):
    result = run(files, tmp_path, family)
    assert result.metrics["eval_accuracy"] > 0.9
    cells = ad.read_h5ad(files[0])
    predicted = annotate(cells, tmp_path / "out").obs["sclm_prediction"]
    assert (predicted.astype(str) == cells.obs["cell_type"].astype(str)).mean() > 0.8
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert list(model.config.id2label.values()) == ["T cell", "NK cell", "B cell"]
    assert model.config.label_parents == {
        "lymphocyte": None,
        "T cell": "lymphocyte",
        "NK cell": "lymphocyte",
        "B cell": None,
    }


@pytest.mark.parametrize("family", ["scgpt", "cellplm", pytest.param("geneformer", marks=pytest.mark.slow)])
def test_what_else_the_loss_says_does_not_stay_in_the_saved_model(files, tmp_path, family):
    settings = {"denoising_weight": 0.3, "embedding_weight": 1.0, "spread_weight": 0.3}
    settings |= {"class_weights": "balanced", "loss": "ldam"}
    result = run(files, tmp_path, family, steps=2, **settings)
    assert np.isfinite([record["loss"] for record in result.history if "loss" in record]).all()
    _, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


@pytest.mark.slow
def test_training_goes_on_from_an_encoder_with_the_classes_of_the_ontology(files, tmp_path):
    run(files, tmp_path, "scgpt", steps=1)
    arguments = PretrainArguments(str(tmp_path / "out"), objective="supervised", label_column=["cell_type"])
    settings = TrainingConfig(output_dir=str(tmp_path / "next"), max_steps=1, use_cpu=True)
    pretrain(DataArguments(files[:1]), arguments, settings)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "next")
    assert list(model.config.id2label.values()) == ["B cell", "NK cell", "T cell"]


@pytest.mark.parametrize("head", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_finetuning_weighs_rare_labels(files, tmp_path, head):
    run(files, tmp_path, "scgpt", steps=1)
    arguments = FinetuneArguments(
        str(tmp_path / "out"), "cell_type", head=head, partners=False, class_weights="balanced", loss="ldam"
    )
    settings = TrainingConfig(output_dir=str(tmp_path / "tuned"), max_steps=2, use_cpu=True)
    result = finetune(DataArguments(files[:1], eval_files=files[:1]), arguments, settings)
    assert {"eval_loss", "eval_macro_f1"} < set(result.metrics)
    assert set(annotate(ad.read_h5ad(files[0]), tmp_path / "tuned").obs["sclm_prediction"].cat.categories) == set(
        LABELS
    )
    with pytest.raises(ConfigurationError, match="step by step"):
        FinetuneArguments("folder", "cell_type", head="probe", loss="ldam")


@pytest.mark.parametrize(
    "family", ["scgpt", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cellplm", "tgpt"))]
)
@pytest.mark.parametrize("labelled", [False, True])
def test_contrastive_training_leaves_an_encoder(files, tmp_path, family, labelled):
    given = {"label_column": ["cell_type", "kind"], "ontology": str(tmp_path / "small.yaml"), "balance_labels": -0.5}
    arguments = PretrainArguments(
        family=family,
        objective="contrastive",
        model_config=json.dumps(FAMILIES[family].tiny),
        **(given if labelled else {}),
    )
    config = TrainingConfig(
        output_dir=str(tmp_path / "out"), max_steps=3, per_device_train_batch_size=30, logging_steps=1, use_cpu=True
    )
    result = pretrain(DataArguments(files, eval_files=files), arguments, config)
    assert np.isfinite(result.metrics["eval_loss"]) and result.history[1]["loss"] > 1
    _, info = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_column": ["cell_type"]}, "`label_column` belongs to the objective 'supervised' or 'contrastive'"),
        ({"loss": "ldam"}, "`loss` belongs to the objective 'supervised'"),
        ({"objective": "supervised"}, "needs labels"),
        ({"objective": "contrastive", "denoising_weight": 0.3}, "belongs to the objective 'supervised'"),
        ({"objective": "contrastive", "spread_weight": 0.3}, "belongs to the objective 'supervised'"),
        ({"objective": "supervised", "label_column": ["a"], "spread_weight": -1}, "must be 0 or more"),
        ({"objective": "contrastive", "temperature": 0}, "above 0"),
        ({"objective": "supervised", "label_column": ["a"], "mask_ratio": [0.3]}, "no `mask_ratio`"),
        ({"objective": "supervised", "label_column": ["a"], "denoising_weight": -1}, "must be 0 or more"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        PretrainArguments(**settings)


def test_labels_that_tell_nothing_apart_are_refused(files, tmp_path):
    cells = ad.read_h5ad(files[1])
    cells.obs["kind"] = np.resize(["unassigned", "B cell"], 60)
    cells.write_h5ad(files[1])
    with pytest.raises(ConfigurationError, match="do not tell any apart"):
        run(files[1:], tmp_path, "scgpt")


def test_weights_give_all_labels_the_same_say():
    n_cells = np.array([90, 10, 0])
    weights = balanced_weights(n_cells)
    np.testing.assert_allclose(weights[:2] * n_cells[:2], 50)


def test_margins_grow_with_rarity_and_full_sets_do_not_count():
    sets = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 1]], bool)
    margins = ldam_margins(np.array([16 * 81, 162, 1000]), sets)
    np.testing.assert_allclose(margins, [1, 2, 2])


def test_a_class_that_the_label_may_mean_is_right():
    sets = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 1], [0, 1, 1], [1, 1, 1]], bool)
    scores = label_set_metrics(np.eye(3)[[0, 1, 2, 0, 0]], sets)
    assert scores == {"accuracy": 0.75, "balanced_accuracy": pytest.approx(5 / 6)}
