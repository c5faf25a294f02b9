"""CIForm: the numbers of the original, training, verbs, and what it refuses."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import sclm_hf
from sclm_hf.cli.main import app
from sclm_hf.errors import ConfigurationError, ExpressionError, GeneCoverageError
from sclm_hf.specialists.ciform.configuration_ciform import CIFormConfig
from sclm_hf.specialists.ciform.modeling_ciform import CIFormModel

from ..common import SpecialistTester, close, golden_arrays, labelled_cells, open_golden


@pytest.mark.parametrize("case", ["case_a", "case_b"])
def test_numbers_of_the_original(case, tmp_path):
    recorded = golden_arrays("ciform", case)
    model = open_golden("ciform", case, tmp_path, dtype=torch.float64)
    expression = torch.from_numpy(recorded["expression"])
    close(model.model.patches(expression), recorded["patches"], 1e-14)
    output = model(expression, labels=torch.from_numpy(recorded["labels"]))
    # the weights are kept in float32
    close(output.logits, recorded["logits"], 1e-6)
    assert output.loss.item() == pytest.approx(float(recorded["loss"]), rel=1e-6)


class TestCIForm(SpecialistTester):
    name = "ciform"
    settings = {"label_key": "cell_type"}
    model_config = {"patch_size": 16, "num_attention_heads": 4, "intermediate_size": 24}
    training = {"num_train_epochs": 10, "per_device_train_batch_size": 16, "learning_rate": 1e-3}

    def cells(self):
        return labelled_cells()


def test_it_learns_to_name_cells(tmp_path):
    train, test = labelled_cells(120), labelled_cells(60, seed=1)
    # both draw their genes' rates
    test.X = labelled_cells(120).X[60:].copy()
    sclm_hf.fit(
        "ciform",
        train,
        tmp_path / "model",
        label_key="cell_type",
        model_config=TestCIForm.model_config,
        training={"num_train_epochs": 60, "learning_rate": 1e-3, "per_device_train_batch_size": 32, "use_cpu": True},
    )
    found = sclm_hf.annotate(test, str(tmp_path / "model"))
    assert (found.obs["sclm_prediction"].astype(str) == test.obs["cell_type"]).mean() > 0.9
    assert np.allclose(found.obsm["sclm_probabilities"].sum(axis=1), 1, atol=1e-5)


def test_who_has_fitted_is_told_how_to_compare(tmp_path):
    train, test, model = tmp_path / "train.h5ad", tmp_path / "test.h5ad", tmp_path / "model"
    labelled_cells().write_h5ad(train)
    others = labelled_cells(seed=1)
    others.obs_names = [f"other_{name}" for name in others.obs_names]
    others.write_h5ad(test)
    given = ["fit", "ciform", str(train), "-o", str(model), "--label-key", "cell_type", "--epochs", "1"]
    for name, value in TestCIForm.model_config.items():
        given += ["--model-config", f"{name}={value}"]
    run = CliRunner().invoke(app, given)
    assert run.exit_code == 0, run.output
    commands = [line.strip() for line in run.output.splitlines() if line.startswith("  sclm-hf ")]
    assert len(commands) == 3
    for command in commands:
        told = command.replace("OTHERS", str(test)).replace("scored.h5ad", str(tmp_path / "scored.h5ad"))
        told = told.replace("--output_dir simple", f"--output_dir {tmp_path}/simple")
        told = told.replace("--model simple", f"--model {tmp_path}/simple")
        run = CliRunner().invoke(app, told.split()[1:])
        assert run.exit_code == 0, (told, run.output)


def test_a_last_patch_may_be_filled_with_zeros():
    model = CIFormModel(CIFormConfig(patch_size=4, num_attention_heads=2, overlap_last=False, scale_patches=False))
    cut = model.patches(torch.arange(6.0)[None])
    assert cut.tolist() == [[[0, 1, 2, 3], [4, 5, 0, 0]]]


def test_fewer_genes_than_a_patch_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"does not fill one patch of 1,024.*`n_top_genes`"):
        sclm_hf.fit("ciform", labelled_cells(), tmp_path / "x", label_key="cell_type")


def test_cells_without_labels_or_with_one_are_refused(tmp_path):
    cells = labelled_cells()
    with pytest.raises(ConfigurationError, match="names the column of `obs`"):
        sclm_hf.fit("ciform", cells, tmp_path / "x", label_key="absent")
    cells.obs["cell_type"] = "one"
    with pytest.raises(ConfigurationError, match="at least two"):
        sclm_hf.fit("ciform", cells, tmp_path / "x", label_key="cell_type")


def test_cells_of_other_genes_are_refused(tmp_path):
    folder = tmp_path / "model"
    TestCIForm().fit(folder)
    others = labelled_cells()
    others.var_names = [f"OTHER{number}" for number in range(others.n_vars)]
    with pytest.raises(GeneCoverageError, match="0 of the 40 genes"):
        sclm_hf.annotate(others, str(folder))


def test_no_cells_and_empty_cells_are_refused(tmp_path):
    with pytest.raises(ExpressionError, match="There are no cells"):
        sclm_hf.fit("ciform", labelled_cells()[:0].copy(), tmp_path / "x", label_key="cell_type")
    cells = labelled_cells()
    cells.X[3] = 0
    with pytest.raises(ExpressionError, match="1 of 60 cells have no counts, for example cell3"):
        sclm_hf.fit("ciform", cells, tmp_path / "x", label_key="cell_type")


@pytest.mark.parametrize("setting", [{"n_top_genes": -1}, {"n_top_genes": "many"}, {"target_sum": 0}, {"layer": []}])
def test_settings_of_another_kind_are_refused(setting, tmp_path):
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        sclm_hf.fit("ciform", labelled_cells(), tmp_path / "x", label_key="cell_type", **setting)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("setting", [{"hidden_dropout_prob": -1.0}, {"num_attention_heads": 0}])
def test_numbers_that_no_model_has_are_refused_before_training(setting, tmp_path):
    given = {"patch_size": 16} | setting
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        sclm_hf.fit("ciform", labelled_cells(), tmp_path / "x", label_key="cell_type", model_config=given)
    assert not (tmp_path / "x").exists()


def test_values_that_are_no_counts_are_refused_with_advice_that_helps(tmp_path):
    cells = labelled_cells()
    cells.X = cells.X.log1p()
    with pytest.raises(ExpressionError, match=r"raw counts.*--set layer=NAME") as told:
        sclm_hf.fit("ciform", cells, tmp_path / "x", label_key="cell_type")
    assert "expects" not in str(told.value)
