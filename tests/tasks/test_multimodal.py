"""RNA with another modality of the same cells."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from sclm_hf import ScGPTModel, embed, multimodal
from sclm_hf.cli.main import make_app
from sclm_hf.cli.multimodal import _verdict
from sclm_hf.errors import (
    CheckpointError,
    ConfigurationError,
    CorpusError,
    ExpressionError,
    GeneCoverageError,
    SclmWarning,
)
from sclm_hf.evaluation.baselines.baseline import log1p_cp10k
from sclm_hf.evaluation.baselines.linear import PCALogisticRegression
from sclm_hf.specialists.pairing import centred_log_ratios
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.tasks.multimodality.joint import joint_embedding
from sclm_hf.tasks.multimodality.modality import read_modality
from sclm_hf.tasks.multimodality.predictors import METHODS, RIDGES, Projection, Ridge, folds_of
from sclm_hf.tasks.multimodality.scores import score_predictions

from .tiny import make_cells, save_checkpoint

KEY = "sclm_multimodal"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("scgpt"))


def make_other(n_features=6, n_cells=40):
    """Counts that follow how many genes a cell expresses."""
    rna = make_cells(n_cells)
    generator = np.random.default_rng(1)
    rates = np.asarray((rna.X > 0).sum(1)) * np.linspace(0.1, 2, n_features)
    var = pd.DataFrame(index=[f"protein {number}" for number in range(n_features)])
    return anndata.AnnData((generator.poisson(rates) + 1).astype("float32"), obs=rna.obs[[]].copy(), var=var)


def run(model, rna=None, other=None, **settings):
    rna, other = make_cells(40) if rna is None else rna, make_other() if other is None else other
    return multimodal(rna, other, model, **{"kind": "protein", **settings})


def test_pairs_give_held_out_predictions_scores_and_a_joint_embedding(model):
    result = run(model, label_key="batch")
    record = result.uns["sclm_hf"][KEY]
    assert result.obsm[f"{KEY}_predicted"].shape == (40, 6) and len(result.obsm[f"{KEY}_joint"]) == 40
    scores = record["scores"]
    assert tuple(scores["method"]) == METHODS and scores["pearson"][0] == 0 == scores["gain"][2]
    assert (scores["pearson_low"] <= scores["pearson"]).all() and (scores["rmse"] <= scores["rmse_high"]).all()
    assert len(record["per_feature"]["embedding"]["pearson"]) == 6 == len(record["features"])
    assert set(record["neighbour_agreement"]) == {"rna", "other", "joint"} and not record["has_manifest"]


def test_a_cell_is_predicted_by_what_was_fitted_without_its_fold(model, monkeypatch):
    monkeypatch.setattr("sclm_hf.tasks.multimodality.scores.best_ridge", lambda scores: "embedding")
    rna, values = make_cells(40), centred_log_ratios(make_other().X)
    embedding = embed(rna, model).obsm["X_scgpt"].astype(float)
    folds = folds_of(rna.obs_names, 5, 0)
    held = folds == 2
    expected = Ridge.fit(embedding[~held], values[~held]).predict(embedding[held])
    np.testing.assert_allclose(run(model).obsm[f"{KEY}_predicted"][held], expected, atol=1e-4)


def test_cells_are_matched_by_name_whatever_their_order(model):
    order = np.random.default_rng(0).permutation(40)
    one, other = run(model), run(model, other=make_other()[order])
    np.testing.assert_array_equal(one.obsm[f"{KEY}_predicted"], other.obsm[f"{KEY}_predicted"])
    names = make_cells(40).obs_names
    np.testing.assert_array_equal(folds_of(names, 5, 0)[order], folds_of(names[order], 5, 0))


class StandIn:
    """What is asked of a MuData, where it is not installed."""

    is_view = False

    def __init__(self, mod):
        self.mod = mod

    def copy(self):
        return StandIn({name: one.copy() for name, one in self.mod.items()})


def pair(**names):
    """RNA and proteins as a MuData."""
    try:
        from mudata import MuData
    except ImportError:
        MuData = StandIn
    return MuData({names.get("rna", "rna"): make_cells(40), names.get("other", "prot"): make_other()})


def test_a_mudata_stands_for_both_modalities_and_comes_back(model):
    expected, given = run(model).obsm[f"{KEY}_joint"], pair()
    found = multimodal(given, model=model, kind="protein")
    np.testing.assert_array_equal(found.mod["rna"].obsm[f"{KEY}_joint"], expected)
    assert not given.mod["rna"].obsm and type(found) is type(given)
    named = pair(rna="gex", other="adt")
    same = multimodal(named, model=model, kind="protein", rna_key="gex", other_key="adt", copy=False)
    assert same is named and f"{KEY}_joint" in named.mod["gex"].obsm


@pytest.mark.parametrize(
    ("names", "settings", "told"),
    [
        ({"rna": "gex"}, {}, r"no modality 'rna', it has \['gex', 'prot'\].*`rna_key`"),
        ({}, {"kind": "atac"}, r"no modality 'atac', it has \['rna', 'prot'\].*`other_key`"),
        ({}, {"kind": None}, "`--kind`"),
        ({}, {"other": make_other()}, "leave out `other`"),
    ],
)
def test_a_mudata_without_a_modality_is_refused(model, names, settings, told):
    with pytest.raises(ConfigurationError, match=told):
        multimodal(pair(**names), model=model, **{"kind": "protein", **settings})


def test_the_command_reads_and_writes_a_mudata(model, tmp_path):
    mudata = pytest.importorskip("mudata")
    mudata.write_h5mu(tmp_path / "in.h5mu", pair(other="adt"))
    arguments = ["multimodal", str(tmp_path / "in.h5mu"), str(tmp_path / "out.h5mu"), "--model", model]
    arguments += ["--kind", "protein"]
    refused = CliRunner().invoke(make_app(), arguments)
    assert refused.exit_code == 1 and "--other-key" in refused.output
    shown = CliRunner().invoke(make_app(), [*arguments, "--other-key", "adt"])
    assert shown.exit_code == 0 and "Predicted 6 features" in shown.output, shown.output
    found = mudata.read_h5mu(tmp_path / "out.h5mu")
    np.testing.assert_array_equal(found["rna"].obsm[f"{KEY}_joint"], run(model).obsm[f"{KEY}_joint"])
    again = CliRunner().invoke(make_app(), [*arguments, "--other-key", "adt"])
    assert again.exit_code == 1 and "--overwrite" in again.output
    wrong = CliRunner().invoke(make_app(), [*arguments[:2], str(tmp_path / "out.h5ad"), *arguments[3:]])
    assert wrong.exit_code == 1 and "….h5mu" in wrong.output


def test_where_one_modality_is_read_a_mudata_is_refused_with_the_way_to_mend_it(model, tmp_path):
    (tmp_path / "in.h5mu").write_bytes(b"never read")
    for verb in ("embed", "impute"):
        with pytest.raises(CorpusError, match=r"read_h5mu\('in.h5mu'\)\['rna'\]"):
            run_files(verb, tmp_path / "in.h5mu", tmp_path / "out.h5ad", model)
    with pytest.raises(CorpusError, match=r"read_h5mu\('in.h5mu'\)\['rna'\]"):
        multimodal(make_cells(40), tmp_path / "in.h5mu", model, kind="protein")
    with pytest.raises(ConfigurationError, match=r"such as `mdata\['rna'\]`"):
        embed(pair(), model)
    told = CliRunner().invoke(make_app(), ["multimodal", "rna.h5ad", "out.h5ad", "--model", model, "--rna-key", "gex"])
    assert told.exit_code == 1 and "`.h5mu` file" in told.output


def read_by(method, model, fitted):
    """What the ridge regression of a method reads of two sets of cells, of which it is fitted on the first."""
    pca = PCALogisticRegression()
    own = [embed(cells, model).obsm["X_scgpt"].astype(float) for cells in fitted]
    components = [pca.fit_projection(log1p_cp10k(fitted[0].X)), pca.project(fitted[1].X)]
    scales = [np.sqrt(each[0].var(0).sum()) for each in (own, components)]
    both = [np.hstack([one / scales[0], other / scales[1]]) for one, other in zip(own, components, strict=True)]
    return {"embedding": own, "pca": components, "embedding and pca": both}[method]


@pytest.mark.parametrize("method", RIDGES)
def test_a_saved_head_predicts_cells_with_rna_alone(model, tmp_path, monkeypatch, method):
    monkeypatch.setattr("sclm_hf.tasks.multimodality.scores.best_ridge", lambda scores: method)
    run(model, head=tmp_path / "head")
    assert sorted(path.name for path in (tmp_path / "head").iterdir()) == ["head.json", "head.safetensors"]
    cells = make_cells(30, seed=3)
    alone = multimodal(cells[:, ::-1].copy(), None, model, head=tmp_path / "head")
    fitted, asked = read_by(method, model, [make_cells(40), cells])
    expected = Ridge.fit(fitted, centred_log_ratios(make_other().X)).predict(asked)
    np.testing.assert_allclose(alone.obsm[f"{KEY}_predicted"], expected, atol=1e-4)
    record = alone.uns["sclm_hf"][KEY]
    assert list(record["features"]) == list(make_other().var_names) and record["method"] == method


def test_the_ridge_regression_with_the_highest_correlation_is_taken(model):
    found = run(model).uns["sclm_hf"][KEY]
    pearson = dict(zip(found["scores"]["method"], found["scores"]["pearson"], strict=True))
    assert pearson[found["method"]] == max(pearson[name] for name in RIDGES)


def test_a_head_of_components_needs_their_genes(model, tmp_path, monkeypatch):
    monkeypatch.setattr("sclm_hf.tasks.multimodality.scores.best_ridge", lambda scores: "pca")
    run(model, head=tmp_path / "head")
    with pytest.raises(GeneCoverageError, match="20 of the 91 genes of the principal components"):
        multimodal(make_cells()[:, :20].copy(), None, model, head=tmp_path / "head")
    with pytest.warns(SclmWarning, match="50 of the 91 genes.*count as their means"):
        multimodal(make_cells()[:, :50].copy(), None, model, head=tmp_path / "head")


def test_a_head_of_another_model_or_damaged_is_refused(model, tmp_path):
    run(model, head=tmp_path / "head")
    other = save_checkpoint(tmp_path / "other", ScGPTModel, pad_value=-3)
    with pytest.raises(CheckpointError, match="fitted on another model"):
        multimodal(make_cells(), None, other, head=tmp_path / "head")
    with pytest.raises(ConfigurationError, match="exists: name another folder"):
        run(model, head=tmp_path / "head")
    (tmp_path / "head" / "head.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="cannot be read"):
        multimodal(make_cells(), None, model, head=tmp_path / "head")


def without_kind(facts, weights):
    del facts["kind"]


def mixed_features(facts, weights):
    facts["features"][:2] = [1, ["a"]]


def features_of_one_name(facts, weights):
    facts["features"][1] = facts["features"][0]


def not_finite(facts, weights):
    weights["biases"][0] = np.nan


def whole_numbers(facts, weights):
    weights["weights"] = np.ones(weights["weights"].shape, np.int64)


def fewer_penalties(facts, weights):
    weights["penalties"] = weights["penalties"][:1]


def weights_for_fewer_inputs(facts, weights):
    weights["weights"] = weights["weights"][:-1].copy()


@pytest.mark.parametrize(
    "damage",
    [
        without_kind,
        mixed_features,
        features_of_one_name,
        not_finite,
        whole_numbers,
        fewer_penalties,
        weights_for_fewer_inputs,
    ],
)
def test_a_damaged_head_is_refused_before_cells_are_run(model, tmp_path, damage):
    head = tmp_path / "head"
    run(model, head=head)
    facts, weights = json.loads((head / "head.json").read_text()), load_file(head / "head.safetensors")
    damage(facts, weights)
    (head / "head.json").write_text(json.dumps(facts))
    save_file(weights, head / "head.safetensors")
    with pytest.raises(CheckpointError, match=r"The .*head.*[fF]it it anew"):
        multimodal(make_cells(), None, model, head=head)


def test_the_command_writes_what_the_function_adds(model, tmp_path):
    rna, other, output, alone = (str(tmp_path / f"{name}.h5ad") for name in ("rna", "other", "output", "alone"))
    make_cells(40).write_h5ad(rna)
    make_other().write_h5ad(other)
    head = ["--model", model, "--head", str(tmp_path / "head")]
    told = CliRunner().invoke(make_app(), ["multimodal", rna, other, output, *head, "--kind", "protein", "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout.splitlines()[-1])["scores"]["method"] == list(METHODS)
    written = anndata.read_h5ad(output).obsm
    np.testing.assert_allclose(written[f"{KEY}_joint"], run(model).obsm[f"{KEY}_joint"], atol=1e-5)
    done = CliRunner().invoke(make_app(), ["multimodal", rna, alone, *head])
    assert done.exit_code == 0 and "Predicted 6 features" in done.output, done.output
    shown = CliRunner().invoke(make_app(), ["multimodal", rna, other, output, "--model", model, "--kind", "protein"])
    assert shown.exit_code == 0 and "pca" in shown.output, shown.output


def with_values(change):
    other = make_other()
    change(other)
    return other


def renamed(names):
    return with_values(lambda other: setattr(other, "obs_names", names))


def set_to(rows, columns, value):
    return with_values(lambda other: other.X.__setitem__((rows, columns), value))


@pytest.mark.parametrize(
    ("other", "error", "told"),
    [
        (renamed([f"x{number}" for number in range(40)]), ConfigurationError, "no cell in common"),
        (make_other()[:35], ConfigurationError, "5 cells of RNA and 0 of `other` are not in both"),
        (renamed(["cell 0"] * 40), ConfigurationError, "`other` have the same name"),
        (make_other(1), ExpressionError, "`other` has 1 feature"),
        (make_other()[:, :0], ExpressionError, "`other` has 0 features"),
        (set_to(0, 0, np.nan), ExpressionError, "missing, negative or no whole"),
        (set_to(0, 0, -1), ExpressionError, "missing, negative or no whole"),
        (set_to(slice(None), 2, 0), ExpressionError, "1 protein of `other` is 0 in all cells, such as 'protein 2'"),
        (set_to(3, slice(None), 0), ExpressionError, "Cell 3 of `other`"),
        (set_to(slice(None), slice(None), 2), ExpressionError, "same shares of all proteins"),
        ("nowhere.h5ad", CorpusError, "no file"),
    ],
)
def test_modalities_that_do_not_fit_are_refused(model, other, error, told):
    with pytest.raises(error, match=told):
        run(model, other=other)


def test_peaks_that_are_open_in_all_cells_and_rna_that_is_all_alike_are_refused(model):
    with pytest.raises(ExpressionError, match="Fewer than 2 peaks"):
        run(model, kind="atac")
    with pytest.raises(ExpressionError, match="no cells"):
        run(model, other=make_other()[:0])
    rna = make_cells(40)
    rna.X = rna.X[np.zeros(40, int)]
    with pytest.raises(ExpressionError, match="all 40 cells have the same values"):
        run(model, rna=rna)


def test_settings_and_too_few_cells_are_refused(model):
    with pytest.raises(ConfigurationError, match="Say with `kind`"):
        run(model, kind=None)
    with pytest.raises(ConfigurationError, match="or a saved `head`"):
        multimodal(make_cells(), None, model)
    with pytest.raises(ConfigurationError, match="40 cells are too few for 30 folds"):
        run(model, n_folds=30)
    with pytest.raises(CorpusError, match="absent"):
        run(model, label_key="absent")
    rna = make_cells(40)
    rna.obs["one"] = "a"
    with pytest.raises(ConfigurationError, match="no two labels of two cells"):
        run(model, rna=rna, label_key="one")


def test_peaks_are_the_most_variable_ones_and_weighted_by_tf_idf():
    is_open = np.array([[1, 1, 0, 0], [1, 2, 0, 0], [1, 0, 0, 1], [1, 0, 0, 0]])
    peaks = read_modality(anndata.AnnData(is_open.astype("float32")), "atac", 3)
    assert peaks.features.tolist() == ["1", "3"]
    np.testing.assert_allclose(peaks.values[0], np.log1p([1e4 * 0.5 * 2, 0]))


def test_scores_are_correlations_and_errors_of_cells():
    values = np.random.default_rng(0).normal(size=(50, 3))
    guess = values + np.random.default_rng(1).normal(size=(50, 3))
    table, per_feature = score_predictions(dict.fromkeys(METHODS, guess), values, np.zeros(50), 0)
    expected = [np.corrcoef(guess[:, number], values[:, number])[0, 1] for number in range(3)]
    np.testing.assert_allclose(per_feature["pca"]["pearson"], expected)
    np.testing.assert_allclose(per_feature["pca"]["rmse"], np.sqrt(((guess - values) ** 2).mean(0)))
    assert table["pearson"][2] == pytest.approx(np.mean(expected)) and (table["gain"][1:] == 0).all()


def test_predictions_of_the_mean_of_other_folds_correlate_with_nothing():
    values, folds = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 3
    means = np.array([values[folds != fold].mean(0) for fold in range(3)])[folds]
    table, _ = score_predictions(dict.fromkeys(METHODS, means), values, folds, 0)
    np.testing.assert_allclose(table["pearson"], 0, atol=1e-12)


def test_both_modalities_weigh_alike_in_the_joint_embedding():
    rna, other = np.random.default_rng(0).normal(size=(2, 60, 5))
    one = joint_embedding(rna, other, 4, 0)["joint"]
    scaled = joint_embedding(rna * 100, other, 4, 0)["joint"]
    np.testing.assert_allclose(one, scaled, atol=1e-4)


def test_components_of_several_columns_of_one_name_are_refused():
    counts = make_cells(20).X[:, :6]
    projection = Projection.fit(counts, list("ABCDEF"), seed=0)
    assert projection.of(counts, list("ABCDEF")).shape[0] == 20
    with pytest.raises(ConfigurationError, match="several columns named 'B'"):
        projection.of(counts, list("ABBDEF"))


@pytest.mark.parametrize(
    ("gain", "told"),
    [
        ((0.05, -0.01, 0.11), "are not told apart"),
        ((0.05, 0.01, 0.11), "The embedding predicts better than the best simple predictor, pca"),
        ((-0.05, -0.11, -0.01), "The baseline wins: pca predicts better"),
    ],
)
@pytest.mark.parametrize("n_seen", [0, 40])
def test_the_verdict_follows_the_interval_of_the_gain_and_says_what_was_seen(gain, told, n_seen):
    gains = [(-0.4, -0.5, -0.3), (-0.2, -0.3, -0.1), (0, 0, 0), gain, (0, 0, 0)]
    scores = {"method": METHODS, "pearson": [0.4 + one[0] for one in gains]}
    scores |= dict(zip(("gain", "gain_low", "gain_high"), zip(*gains, strict=True), strict=True))
    verdict = _verdict(scores, n_seen)
    assert told in verdict and ("40 cells stand in the training manifest" in verdict) == bool(n_seen)
    assert verdict.count(".") == 1


def test_a_gain_over_components_is_none_over_a_better_predictor():
    gains = [(-0.4, -0.5, -0.3), (0.1, 0, 0.2), (0, 0, 0), (0.15, 0.05, 0.25), (0, 0, 0)]
    scores = {"method": METHODS, "pearson": [0.4 + one[0] for one in gains]}
    scores |= dict(zip(("gain", "gain_low", "gain_high"), zip(*gains, strict=True), strict=True))
    assert "neighbours, are not told apart" in _verdict(scores, 0)
