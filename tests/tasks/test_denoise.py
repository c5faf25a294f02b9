"""Denoised expression, by families that predict it, scored on reads that were held out."""

import anndata
import numpy as np
import pytest
import scipy.sparse
from typer.testing import CliRunner

from sclm_hf import denoise, impute
from sclm_hf.cli.main import make_app
from sclm_hf.errors import CheckpointError, ExpressionError
from sclm_hf.opening.loading import load_model
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.tasks.imputation.posterior import Prior
from sclm_hf.tasks.imputation.thinned import thinned_scores

from .tiny import GENES, make_cells, save_checkpoint

METHODS = ["model", "similar cells", "gene mean", "counts"]
SCORED = ["model", "model with counts", "similar cells", "similar cells with counts", "gene mean", "counts"]


@pytest.fixture(scope="module", params=["cellplm", "scfoundation"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "model"
    return make_tiny_checkpoint(request.param, folder, task="pretrain", genes=GENES)


def scores_of(counts, predict, **names):
    everything = np.arange(counts.shape[1])
    names = {"cell_ids": np.arange(counts.shape[0]), "genes": everything.astype(str), "scored": everything} | names
    return thinned_scores(scipy.sparse.csr_matrix(counts), predict, 0, read=everything, **names)


def test_the_layer_is_that_of_impute_and_the_scores_answer_another_question(model):
    cells = make_cells(60)
    denoised = denoise(cells, model)
    np.testing.assert_array_equal(denoised.layers["sclm_denoised"], impute(cells, model).layers["sclm_imputed"])
    record = denoised.uns["sclm_hf"]["sclm_denoised"]
    assert (record["n_denoised"], record["n_scored"], list(record["scores"])) == (90, 60, SCORED)
    assert record["scores"]["gene mean"] == {"correlation": 0, "error": 1}
    assert record["scores"] == denoise(cells, model).uns["sclm_hf"]["sclm_denoised"]["scores"]
    assert "scores" not in denoise(cells, model, score=False).uns["sclm_hf"]["sclm_denoised"]


def test_who_knows_the_rates_comes_nearest_and_similar_cells_beat_counts_and_mean():
    generator = np.random.default_rng(0)
    rates = generator.gamma(1, 8, (2, 40))[np.arange(200) % 2]
    scores = scores_of(generator.poisson(rates), lambda left: np.log1p(rates))
    errors = [scores[name]["error"] for name in METHODS]
    assert errors[0] < errors[1] < errors[2] == 1 and errors[1] < errors[3]
    assert scores["model"]["correlation"] > scores["similar cells"]["correlation"] > scores["counts"]["correlation"]


def test_counts_are_added_as_far_as_they_tell_more():
    generator = np.random.default_rng(0)
    expected = generator.gamma(2, 4, (300, 40))
    # of half of the genes the prediction tells all, of the others a part
    rates = expected * np.where(np.arange(40) % 2, 1, generator.gamma(4, 1 / 4, (300, 40)))
    counts = generator.poisson(rates).astype(float)
    prior = Prior.of_cells(expected, counts)
    shapes = prior.shapes
    assert shapes[::2].max() < 10 < shapes[1::2].min()
    found = prior.posterior_means(expected, counts)
    errors = [((one - rates) ** 2).mean(axis=0) for one in (found, expected, counts)]
    assert (errors[0] < errors[2]).all() and (errors[0] < errors[1])[::2].all()
    np.testing.assert_allclose(prior.posterior_means(expected, counts * 0), 0)
    assert (prior.posterior_means(expected * 0, counts)[counts > 0] > 0).all()


def test_denoised_values_with_counts_are_nearer_to_the_counts_and_as_large(model):
    cells = make_cells(60)
    plain, both = (denoise(cells, model, score=False, with_counts=one).layers["sclm_denoised"] for one in (0, 1))
    counts = cells[:, GENES].X.toarray()
    plain, both = (np.expm1(layer[:, :90].astype(float)) for layer in (plain, both))
    plain = np.maximum(plain, 0)
    np.testing.assert_allclose(both.sum(axis=1), plain.sum(axis=1), rtol=1e-3)
    shares = counts / counts.sum(axis=1, keepdims=True)
    errors = [((one / one.sum(axis=1, keepdims=True) - shares) ** 2).mean() for one in (both, plain)]
    assert errors[0] < errors[1]


def test_reads_are_held_out_by_the_names_of_cell_and_gene():
    counts, seen = np.random.default_rng(0).poisson(3, (80, 40)), []

    def left_of(rows, genes, scored):
        scores = scores_of(
            counts[rows][:, genes],
            lambda left: seen.append(left.toarray()) or np.zeros((len(rows), len(scored))),
            cell_ids=rows,
            genes=genes.astype(str),
            scored=scored,
        )
        return seen[-1], scores["gene mean"], scores["counts"]["error"]

    cells, genes = np.arange(80), np.arange(40)
    whole, _, error = left_of(cells, genes, genes)
    assert 0.87 < whole.sum() / counts.sum() < 0.93 and (whole <= counts).all()
    turned, _, other = left_of(cells[::-1], genes[::-1], genes)
    np.testing.assert_array_equal(turned, whole[::-1, ::-1])
    assert other == pytest.approx(error)
    np.testing.assert_array_equal(left_of(cells[30:], genes, genes[:25])[0], whole[30:])


def test_too_few_reads_are_refused():
    with pytest.raises(ExpressionError, match="too few to hold a tenth"):
        scores_of(np.eye(30, dtype=int) * 3, lambda left: np.zeros(left.shape))


def test_values_that_are_no_counts_are_scored_by_nobody(model):
    loaded, cells = load_model(str(model), "AutoModelForPreTraining"), make_cells(60)
    loaded.processor.feature_extractor.expects = "any"
    cells.X = cells.X.log1p()
    with pytest.raises(ExpressionError, match="no counts, of which reads"):
        denoise(cells, loaded.model, loaded.processor)
    assert "sclm_denoised" in denoise(cells, loaded.model, loaded.processor, score=False).layers


def test_one_cell_has_no_similar_ones(model):
    with pytest.raises(ExpressionError, match="1 cells with 91 genes, and no cells"):
        denoise(make_cells(1), model)


def test_a_few_fractional_values_are_read_as_whole_reads():
    counts = np.random.default_rng(0).poisson(3, (80, 40)).astype(float)
    expected = scores_of(counts, lambda left: np.zeros(left.shape))
    counts[0, counts[0] > 0] += 0.25
    assert scores_of(counts, lambda left: np.zeros(left.shape)) == expected


def test_the_command_adds_the_layer_and_says_which_methods_are_nearer(model, tmp_path):
    make_cells(60).write_h5ad(tmp_path / "in.h5ad")
    files = [str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad")]
    done = CliRunner().invoke(make_app(), ["denoise", *files, "--model", str(model)])
    assert done.exit_code == 0 and "gene mean: correlation with held-out reads 0.000, error 1.000" in done.output
    record = anndata.read_h5ad(tmp_path / "out.h5ad").uns["sclm_hf"]["sclm_denoised"]["scores"]
    nearer = [name for name in record if record[name]["error"] < record["model"]["error"]]
    assert (f"Nearer to held-out reads than the model: {', '.join(nearer)}." in done.output) == bool(nearer)


def test_families_that_predict_no_expression_are_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"is a `scgpt` model.*`denoise` takes models of cellplm, scfoundation"):
        denoise(make_cells(), save_checkpoint(tmp_path / "scgpt"))
