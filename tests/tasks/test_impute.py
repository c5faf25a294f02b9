"""Expected expression, by families that predict it."""

import anndata
import numpy as np
import pytest
import scipy.sparse
from transformers import AutoModelForPreTraining, AutoProcessor
from typer.testing import CliRunner

from sclm_hf import impute
from sclm_hf.adapters.lora import add_lora, save_adapter
from sclm_hf.cli.main import make_app
from sclm_hf.errors import CheckpointError, ConfigurationError, ExpressionError
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.tasks.imputation.scores import chosen_cells, hidden_scores

from .tiny import GENES, make_cells, save_checkpoint


@pytest.fixture(scope="module", params=["cellplm", "scfoundation"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "model"
    return make_tiny_checkpoint(request.param, folder, task="pretrain", genes=GENES)


def test_a_layer_holds_what_the_model_expects_of_each_gene(model):
    imputed = impute(make_cells(), model, batch_size=5).layers["sclm_imputed"]
    assert imputed.shape == (23, 91) and imputed.dtype == np.float32
    assert np.isfinite(imputed[:, :90]).all() and np.isnan(imputed[:, 90]).all()
    some = impute(make_cells(), model, genes="GENE7, GENE3").layers["sclm_imputed"]
    np.testing.assert_allclose(some[:, [3, 7]], imputed[:, [3, 7]], atol=1e-5)
    assert np.isfinite(some).sum() == 46


def test_expected_counts_are_those_per_ten_thousand(tmp_path):
    model = make_tiny_checkpoint("cellplm", tmp_path / "model", task="pretrain", genes=GENES)
    imputed = impute(make_cells(), model).layers["sclm_imputed"]
    np.testing.assert_allclose(np.expm1(imputed[:, :90]).sum(1), 1e4, rtol=1e-3)


def test_scores_stand_beside_simple_methods(model):
    scores = impute(make_cells(60), model, score=True).uns["sclm_hf"]["sclm_imputed"]["scores"]
    assert list(scores) == ["model", "similar cells", "gene mean"]
    assert all(-1 <= one["pearson"] <= 1 and one["rmse"] > 0 for one in scores.values())
    assert scores == impute(make_cells(60), model, score=True).uns["sclm_hf"]["sclm_imputed"]["scores"]


def test_hidden_counts_are_hidden_and_similar_cells_know_them():
    generator = np.random.default_rng(0)
    levels = generator.gamma(1, 8, (2, 40))
    counts = scipy.sparse.csr_matrix(generator.poisson(levels[np.arange(80) % 2]))
    given, everything = [], np.arange(40)
    names = {"cell_ids": np.arange(80), "genes": everything.astype(str), "read": everything, "scored": everything}
    scores = hidden_scores(counts, lambda left: given.append(left) or np.zeros(left.shape), 0, **names)
    assert 0.85 < given[0].nnz / counts.nnz < 0.95 and (given[0].sum(1) > 0).all()
    assert scores["similar cells"]["pearson"] > scores["gene mean"]["pearson"] and scores["model"]["pearson"] == 0
    with pytest.raises(ExpressionError, match="too few to hide a tenth"):
        hidden_scores(counts[:2], lambda left: left, 0, **(names | {"cell_ids": np.arange(2)}))


def test_what_is_hidden_belongs_to_the_names_of_cell_and_gene():
    counts = scipy.sparse.csr_matrix(np.random.default_rng(0).poisson(3, (80, 40)))
    cells, genes, given = np.arange(80), np.arange(40), []

    def left_of(cells, genes, scored):
        hidden_scores(
            counts[cells][:, genes],
            lambda left: given.append(left.toarray()) or np.zeros((len(cells), len(scored))),
            0,
            cell_ids=cells,
            genes=genes.astype(str),
            read=np.arange(40),
            scored=scored,
        )
        return given[-1]

    whole = left_of(cells, genes, genes)
    np.testing.assert_array_equal(left_of(cells[::-1], genes[::-1], genes), whole[::-1, ::-1])
    np.testing.assert_array_equal(left_of(cells[30:], genes, genes[:25]), whole[30:])


def test_of_many_cells_some_are_scored_that_their_names_choose(model, monkeypatch):
    monkeypatch.setattr("sclm_hf.tasks.imputation.scores.MOST_CELLS", 30)
    cells, place = make_cells(60), {"model": model, "score": True}
    one, other = (impute(some, **place).uns["sclm_hf"]["sclm_imputed"] for some in (cells, cells[::-1].copy()))
    # a model of samples needs all of their cells
    assert one["n_scored"] == other["n_scored"] == (60 if one["family"] == "cellplm" else 30)
    for method in ("model", "gene mean"):
        assert one["scores"][method] == pytest.approx(other["scores"][method], abs=1e-5)
    assert len(chosen_cells(np.arange(25).astype(np.uint64), 0)) == 25


def test_an_adapter_imputes(tmp_path):
    base = make_tiny_checkpoint("cellplm", tmp_path / "base", task="pretrain", genes=GENES)
    save_adapter(add_lora(AutoModelForPreTraining.from_pretrained(base)), tmp_path / "adapter")
    AutoProcessor.from_pretrained(base).save_pretrained(tmp_path / "adapter")
    one, other = (impute(make_cells(), model).layers["sclm_imputed"] for model in (base, tmp_path / "adapter"))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_command_adds_the_layer_and_prints_the_scores(model, tmp_path):
    make_cells().write_h5ad(tmp_path / "in.h5ad")
    files = [str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad")]
    done = CliRunner().invoke(make_app(), ["impute", *files, "--model", str(model), "--score"])
    assert done.exit_code == 0 and "similar cells: correlation with hidden counts" in done.output, done.output
    written = anndata.read_h5ad(tmp_path / "out.h5ad").layers["sclm_imputed"]
    np.testing.assert_allclose(written, impute(make_cells(), model).layers["sclm_imputed"], atol=1e-5)


def test_families_that_predict_no_expression_are_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"is a `scgpt` model.*takes models of cellplm, scfoundation"):
        impute(make_cells(), save_checkpoint(tmp_path / "scgpt"))
    bare = make_tiny_checkpoint("cellplm", tmp_path / "bare", genes=GENES)
    with pytest.raises(CheckpointError, match="lacks"):
        impute(make_cells(), bare)


def test_genes_that_are_not_there_and_counts_in_raw_are_refused(model):
    with pytest.raises(ConfigurationError, match="'UNKNOWN1', 'X': no such gene"):
        impute(make_cells(), model, genes=["GENE1", "UNKNOWN1", "X"])
    cells = make_cells()
    cells.raw = cells
    with pytest.raises(ConfigurationError, match="put them into a layer"):
        impute(cells, model)
