"""Fitting a probe, from arrays and from files."""

import anndata as ad
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sclm_hf
from sclm_hf.errors import ConfigurationError
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.opening.weights import open_model
from sclm_hf.registry import FAMILIES
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.counts import ABSENT
from sclm_hf.training.finetune import finetune
from sclm_hf.training.partners import folds
from sclm_hf.training.probe import STRENGTHS, choose_strength, fit_probe
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments

from .h5ad_files import GENES, LABELS, write_h5ad

FAMILIES_WITH_PROBE = [
    name for name, family in FAMILIES.items() if "AutoModelForSequenceClassification" in family.auto_classes
]


def features_of(labels, size=6):
    generator = np.random.default_rng(0)
    return generator.normal(size=(len(labels), size)) + generator.normal(size=(9, size))[labels] + 5


@pytest.mark.parametrize("n_labels", [2, 4])
def test_a_probe_is_the_pipeline_of_scikit_learn(n_labels):
    labels = np.arange(60) % n_labels
    features = features_of(labels)
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000, tol=1e-6)).fit(
        features, labels
    )
    found = fit_probe(features, labels, n_labels, 0.1).log_probabilities(features)
    np.testing.assert_allclose(found, expected.predict_log_proba(features), atol=1e-5)


def test_a_label_without_cells_is_never_predicted():
    labels = np.repeat([0, 3], 10)
    fitted = fit_probe(features_of(labels), labels, 5, 1.0)
    assert (fitted.bias[[1, 2, 4]] == ABSENT).all()
    assert set(fitted.log_probabilities(features_of(labels)).argmax(1)) == {0, 3}


def test_a_feature_that_does_not_vary_changes_nothing():
    labels = np.arange(40) % 3
    features = features_of(labels)
    constant = np.hstack([features, np.full((40, 1), 0.3)])
    ones = [fit_probe(x, labels, 3, 0.1).log_probabilities(x) for x in (features, constant)]
    np.testing.assert_allclose(*ones, atol=1e-5)


def test_the_strength_is_chosen_by_models_that_did_not_see_the_cell():
    labels = np.arange(35) % 3
    features = features_of(labels)
    splits = folds(labels)
    strength, _, predicted = choose_strength(features, labels, 3, splits)
    assert strength in STRENGTHS and predicted.shape == (35, 3)
    train, test = splits[0]
    fitted = fit_probe(features[train], labels[train], 3, strength)
    np.testing.assert_array_equal(predicted[: len(test)], fitted.log_probabilities(features[test]))


def test_what_labels_mean_decides_among_the_labels_that_mean_something():
    labels = np.arange(60) % 3
    leaves = np.log(np.array([[0.98, 0.01, 0.01], [0.01, 0.98, 0.01], [0.2, 0.3, 0.5]])[labels])
    features = np.hstack([np.random.default_rng(0).normal(size=(60, 4)), leaves])
    meanings = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], float)
    plain, told = (fit_probe(features, labels, 3, 1e-4, one).log_probabilities(features) for one in (None, meanings))
    np.testing.assert_allclose(told.argmax(1)[labels < 2], labels[labels < 2])
    # of the label without a meaning nothing is said
    plain, told = (np.exp(one) / np.exp(one).sum(1, keepdims=True) for one in (plain, told))
    np.testing.assert_allclose(told[:, 2], plain[:, 2], atol=1e-12)
    _, heeded, _ = choose_strength(features, labels, 3, folds(labels), meanings)
    assert np.array_equal(heeded, meanings)
    _, heeded, _ = choose_strength(features, labels, 3, folds(labels), meanings[[1, 0, 2]])
    assert not heeded.any()


@pytest.mark.parametrize(
    "family",
    [
        name if name in ("scgpt", "cellplm") else pytest.param(name, marks=pytest.mark.slow)
        for name in FAMILIES_WITH_PROBE
    ],
)
@pytest.mark.parametrize("task", ["embed", "annotate"])
def test_what_a_probe_was_fitted_on_is_what_annotate_runs(family, task, tmp_path):
    file = write_h5ad(tmp_path / "a.h5ad", 45)
    cells = ad.read_h5ad(file)
    cells.obs["batch"] = ["first", "second", "first"] * 15
    cells.write_h5ad(file)
    base = make_tiny_checkpoint(family, tmp_path / "base", task=task, genes=GENES)
    config = TrainingConfig(output_dir=str(tmp_path / "probe"), use_cpu=True)
    arguments = FinetuneArguments(str(base), "cell_type", head="probe", partners=False)
    result = finetune(DataArguments([str(file)], eval_files=[str(file)]), arguments, config)
    cells = sclm_hf.annotate(ad.read_h5ad(file), str(tmp_path / "probe"), device="cpu")
    names = list(cells.uns["sclm_hf"]["sclm_prediction"]["label_names"])
    truth = cells.obs["cell_type"].map(names.index).to_numpy()
    loss = -np.log(cells.obsm["sclm_probabilities"][np.arange(45), truth]).mean()
    assert result.metrics["eval_loss"] == pytest.approx(loss, abs=1e-5)
    assert names == sorted(LABELS) and loss < np.log(3)


def test_the_encoder_of_a_probe_embeds_as_before(tmp_path):
    file = write_h5ad(tmp_path / "a.h5ad", 30)
    base = make_tiny_checkpoint("scgpt", tmp_path / "base", genes=GENES)
    config = TrainingConfig(output_dir=str(tmp_path / "probe"), use_cpu=True)
    finetune(
        DataArguments([str(file)]), FinetuneArguments(str(base), "cell_type", head="probe", partners=False), config
    )
    before, after = (open_model(str(place), "AutoModel").state_dict() for place in (base, tmp_path / "probe"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_several_processes_are_refused(tmp_path, monkeypatch):
    file = write_h5ad(tmp_path / "a.h5ad", 30)
    base = make_tiny_checkpoint("scgpt", tmp_path / "base", genes=GENES)
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = TrainingConfig(output_dir=str(tmp_path / "probe"), use_cpu=True)
    with pytest.raises(ConfigurationError, match="one process"):
        finetune(
            DataArguments([str(file)]), FinetuneArguments(str(base), "cell_type", head="probe", partners=False), config
        )
