"""One embedding for the cells of several batches."""

import json
import sys
import warnings

import anndata
import numpy as np
import pytest
from transformers import AutoModel
from typer.testing import CliRunner

from sclm_hf import embed, integrate
from sclm_hf.cli.main import make_app
from sclm_hf.errors import (
    ConfigurationError,
    CorpusError,
    ExpressionError,
    GeneCoverageError,
    MissingDependencyError,
    SclmWarning,
)
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.training.integration import IntegrationQuality, IntegrationWatch

from .tiny import GENES, make_cells, make_model, make_processor, save_checkpoint

# what an untrained model gives
pytestmark = pytest.mark.filterwarnings("ignore:The embeddings in")


@pytest.fixture
def cells():
    cells = make_cells(60)
    cells.obs["cell_type"] = np.resize(["a", "b", "c"], 60)
    return cells


@pytest.fixture
def model(tmp_path):
    return save_checkpoint(tmp_path / "model")


def test_zero_shot_is_the_embedding_with_scores_of_batches_and_labels(cells, model):
    found = integrate(cells, model, batch_key="batch", label_key="cell_type")
    np.testing.assert_array_equal(found.obsm["X_scgpt_integrated"], embed(cells, model).obsm["X_scgpt"])
    record = found.uns["sclm_hf"]["X_scgpt_integrated"]
    assert record["batches"]["name"].tolist() == ["0", "1"] and record["batches"]["n_cells"].tolist() == [30, 30]
    assert record["scores"]["zero_shot"] == record["scores"]["integrated"]
    assert 0 < record["scores"]["integrated"]["label_purity"] < 1 and record["settings"]["batch_key"] == "batch"


def test_the_command_gives_the_same(cells, model, tmp_path):
    cells.write_h5ad(tmp_path / "in.h5ad")
    files = [str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad")]
    done = CliRunner().invoke(
        make_app(), ["integrate", *files, "--model", model, "--batch-key", "batch", "--key", "X"]
    )
    assert done.exit_code == 0 and "batch mixing" in done.output, done.output
    assert done.output.index("zero shot") < done.output.index("integrated")
    expected = integrate(cells, model, batch_key="batch").obsm["X_scgpt_integrated"]
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X"], expected)
    arguments = ["integrate", *files, "--model", model, "--batch-key", "batch", "--key", "X", "--json"]
    told = json.loads(CliRunner().invoke(make_app(), arguments).stdout.splitlines()[-1])
    assert told["n_cells"] == 60 and told["batches"]["n_cells"] == [30, 30]


def test_cells_without_a_label_are_integrated_too(cells, model):
    cells.obs.loc[cells.obs_names[:9], "cell_type"] = None
    found = integrate(cells, model, batch_key="batch", label_key="cell_type")
    assert np.isfinite(found.obsm["X_scgpt_integrated"]).all()


def test_batches_are_the_samples_of_a_model_that_reads_samples(cells, tmp_path):
    cells.obs["lane"] = np.resize(["x", "y", "z"], 60)
    model = make_tiny_checkpoint("cellplm", tmp_path / "cellplm", genes=GENES)
    found = integrate(cells, model, batch_key="lane")
    expected = embed(cells, model, batch_key="lane").obsm["X_cellplm"]
    np.testing.assert_array_equal(found.obsm["X_cellplm_integrated"], expected)


def test_harmony_corrects_the_embedding(cells, model):
    pytest.importorskip("harmonypy", reason="harmonypy is in the extra `integration`")
    from sclm_hf.evaluation.integration.harmony import harmony

    found = integrate(cells, model, batch_key="batch", harmony=True)
    expected = harmony(embed(cells, model).obsm["X_scgpt"], cells.obs["batch"].astype(str))
    np.testing.assert_array_equal(found.obsm["X_scgpt_integrated"], expected)


def test_harmony_that_is_not_installed_is_told_before_the_work(cells, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "harmonypy", None)
    with pytest.raises(MissingDependencyError, match=r"sclm_hf\[integration\]"):
        integrate(cells, model, batch_key="batch", harmony=True)


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({}, ConfigurationError, "--batch-key"),
        ({"batch_key": "absent"}, CorpusError, "no column `absent`"),
        ({"batch_key": "one"}, ConfigurationError, "All 60 cells are of one batch, 'x'"),
        ({"batch_key": "own"}, ConfigurationError, "another value for each of the 60 cells"),
        ({"batch_key": "missing"}, CorpusError, "1 of 60 cells have no value"),
        ({"batch_key": "batch", "label_key": "one"}, ConfigurationError, "no two labels of two cells or more"),
        ({"batch_key": "batch", "mode": "both"}, ConfigurationError, "`mode`"),
    ],
)
def test_refused(cells, model, settings, error, told):
    cells.obs["one"], cells.obs["own"] = "x", cells.obs_names
    cells.obs["missing"] = [None, *["x", "y"] * 29, "x"]
    with pytest.raises(error, match=told):
        integrate(cells, model, **settings)


def test_too_few_cells_for_harmony_are_refused(cells, model):
    pytest.importorskip("harmonypy", reason="harmonypy is in the extra `integration`")
    with pytest.raises(ConfigurationError, match="needs 60, got 40"):
        integrate(cells[:40], model, batch_key="batch", harmony=True)


def test_cells_that_are_all_alike_and_genes_that_nobody_knows_are_refused(cells, model):
    alike = cells.copy()
    alike.X = np.tile(np.r_[np.arange(1, 41), np.zeros(51)].astype("float32"), (60, 1))
    with pytest.raises(ExpressionError, match="all 60 cells have the same values of all genes"):
        integrate(alike, model, batch_key="batch")
    cells.var_names = [f"NOBODY{number}" for number in range(91)]
    with pytest.raises(GeneCoverageError):
        integrate(cells, model, batch_key="batch")


QUICK = {"batch_key": "batch", "mode": "fine_tune", "n_steps": 4, "train_batch_size": 8, "device": "cpu"}


def measured(monkeypatch, *purities, error=0.0):
    """Let evaluations find these purities of labels, one after the other."""
    found = iter([IntegrationQuality(0.5, purity, error=error) for purity in purities])
    monkeypatch.setattr(IntegrationWatch, "measure", lambda watch, module: next(found))


def test_fine_tuning_marks_whose_labels_taught_and_the_saved_model_embeds_alike(cells, model, tmp_path, monkeypatch):
    measured(monkeypatch, 0.5, 0.4, 0.7, 0.6, 0.6)
    found = integrate(cells, model, label_key="cell_type", most_lost=1, output_model=tmp_path / "tuned", **QUICK)
    record = found.uns["sclm_hf"]["X_scgpt_integrated"]
    assert record["training"]["step"].tolist() == [0, 1, 2, 3, 4] and record["training"]["kept_step"] == 2
    assert found.obs["sclm_seen_in_training"].sum() == 48 and record["teaches_labels"]
    again = embed(cells, tmp_path / "tuned").obsm["X_scgpt"]
    np.testing.assert_allclose(found.obsm["X_scgpt_integrated"], again, atol=1e-5)
    # nothing is measured any more: the run is finished
    once_more = integrate(cells, model, label_key="cell_type", most_lost=1, output_model=tmp_path / "tuned", **QUICK)
    np.testing.assert_array_equal(once_more.obsm["X_scgpt_integrated"], found.obsm["X_scgpt_integrated"])
    found.write_h5ad(tmp_path / "out.h5ad")


def test_training_stops_when_biology_is_being_lost_and_keeps_what_was_before(cells, model, monkeypatch):
    measured(monkeypatch, 0.5, 0.6, 0.44, 0.43)
    with pytest.warns(SclmWarning, match=r"biology was being lost.* fell from 0\.500 to 0\.430"):
        found = integrate(cells, model, label_key="cell_type", **QUICK)
    training = found.uns["sclm_hf"]["X_scgpt_integrated"]["training"]
    assert (training["n_steps"], training["kept_step"], training["biology_lost"]) == (3, 1, True)


def test_the_model_as_it_was_is_kept_where_training_makes_it_worse(cells, model, monkeypatch):
    measured(monkeypatch, 0.5, 0.49, 0.48, 0.47, 0.48)
    with pytest.warns(SclmWarning, match="no better on cells held out"):
        found = integrate(cells, model, label_key="cell_type", **QUICK)
    np.testing.assert_array_equal(found.obsm["X_scgpt_integrated"], embed(cells, model).obsm["X_scgpt"])
    assert not found.obs["sclm_seen_in_training"].any()


@pytest.mark.parametrize(("error", "is_told"), [(0.031, True), (0.029, False)])
def test_a_gain_that_chance_gives_is_told_and_still_returned(cells, model, monkeypatch, error, is_told):
    # 0.6 of the purity counts: a gain of 0.06
    measured(monkeypatch, 0.5, 0.55, 0.6, 0.58, 0.57, error=error)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = integrate(cells, model, label_key="cell_type", **QUICK)
    told = [str(one.message) for one in caught if "told from chance" in str(one.message)]
    assert len(told) == is_told and all("from 0.500 to 0.560" in one and "--mode zero_shot" in one for one in told)
    training = found.uns["sclm_hf"]["X_scgpt_integrated"]["training"]
    assert (training["kept_step"], training["standard_error"]) == (2, error)
    assert training["gain"] == pytest.approx(0.06)
    assert found.obs["sclm_seen_in_training"].any()
    assert not np.array_equal(found.obsm["X_scgpt_integrated"], embed(cells, model).obsm["X_scgpt"])


def test_each_batch_has_its_own_normalisation_and_the_saved_model_embeds_alike(cells, model, tmp_path, monkeypatch):
    measured(monkeypatch, 0.5, 0.6, 0.6, 0.6, 0.7)
    found = integrate(cells, model, head="full", dsbn=True, most_lost=1, output_model=tmp_path / "tuned", **QUICK)
    again = embed(cells, tmp_path / "tuned", batch_key="batch").obsm["X_scgpt"]
    np.testing.assert_allclose(found.obsm["X_scgpt_integrated"], again, atol=1e-5)
    with pytest.raises(ConfigurationError, match="--head full"):
        integrate(cells, model, dsbn=True, **QUICK)


@pytest.mark.slow
def test_fine_tuning_repeats_itself_and_leaves_the_model_as_it_is(cells, model):
    loaded = AutoModel.from_pretrained(model)
    before = embed(cells, loaded).obsm["X_scgpt"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SclmWarning)
        one, two = (integrate(cells, loaded, head="full", **QUICK).obsm["X_scgpt_integrated"] for _ in range(2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(before, embed(cells, loaded).obsm["X_scgpt"])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["cellplm", "geneformer"])
def test_samples_and_rankings_are_fine_tuned_too(cells, tmp_path, family):
    model = make_tiny_checkpoint(family, tmp_path / family, genes=GENES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SclmWarning)
        found = integrate(cells, model, most_lost=1, **QUICK)
    record = found.uns["sclm_hf"][f"X_{family}_integrated"]
    assert record["training"]["n_steps"] == 4 and not record["teaches_labels"]
    assert np.isfinite(found.obsm[f"X_{family}_integrated"]).all()


def test_what_cannot_be_fine_tuned_is_refused_before_the_work(cells, model):
    with pytest.raises(ConfigurationError, match="was never saved"):
        integrate(cells, make_model(), make_processor(), **QUICK)
    cells.obs["batch"] = ["x"] * 55 + ["y"] * 5
    with pytest.raises(ConfigurationError, match=r"Batch 'y' of .* has 5 cells, and at least 10"):
        integrate(cells, model, **QUICK)
