"""One embedding for the cells of several batches."""

import sys

import anndata
import numpy as np
import pytest
from typer.testing import CliRunner

from sclm_hf import embed, integrate
from sclm_hf.cli.main import make_app
from sclm_hf.errors import ConfigurationError, CorpusError, ExpressionError, GeneCoverageError, MissingDependencyError
from sclm_hf.opening.tiny import make_tiny_checkpoint

from .tiny import GENES, make_cells, save_checkpoint

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
    expected = integrate(cells, model, batch_key="batch").obsm["X_scgpt_integrated"]
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X"], expected)


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
    with pytest.raises(ExpressionError, match="the same for all 60 cells"):
        integrate(alike, model, batch_key="batch")
    cells.var_names = [f"NOBODY{number}" for number in range(91)]
    with pytest.raises(GeneCoverageError):
        integrate(cells, model, batch_key="batch")
