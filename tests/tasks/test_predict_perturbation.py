import json
import re

import anndata
import numpy as np
import pytest
from numpy.testing import assert_allclose
from transformers import AutoModel
from typer.testing import CliRunner

import sclm_hf
from sclm_hf.cli.main import make_app
from sclm_hf.cli.predict_perturbation import _verdict
from sclm_hf.errors import CheckpointError, ConfigurationError, ExpressionError, GeneCoverageError, SclmWarning
from sclm_hf.sources.in_memory import InMemorySource
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.tasks.prediction import reading
from sclm_hf.tasks.running.seen import seen_by

from .prediction.screens import GENES, PERTURBED, features, make_screen
from .tiny import save_checkpoint

WANTED = ["GENE3", "GENE6", "GENE0+GENE1"]
TINY = '{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}'


def predict(cells=None, model=None, **settings):
    settings = {"perturbations": WANTED, "features": features(), **settings}
    return sclm_hf.predict_perturbation(make_screen() if cells is None else cells, model, **settings)


def entry(result):
    return result.uns["sclm_hf"]["predict_perturbation"]


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model_config: '{TINY}'\nmax_steps: 2\ncells_per_set: 8\nuse_cpu: true\n")
    return path


def test_controls_stay_as_they_are_among_predicted_cells_of_the_same_genes():
    cells = make_screen()
    cells.X = cells.X.log1p() / 2
    result = predict(cells)
    controls = result[~result.obs["sclm_predicted"]]
    assert (controls.X != cells[controls.obs_names].X).nnz == 0 and list(result.var_names) == GENES
    assert result.obs["perturbation"].value_counts().to_dict() == {"control": 40, **dict.fromkeys(WANTED, 20)}
    assert result.X.min() >= 0 and result.obs_names.is_unique


def test_the_table_has_simple_predictors_first_and_the_ceiling_last():
    found = entry(predict())
    assert list(found["scores"]["method"]) == [
        "no change",
        "mean",
        "additive",
        "nearest",
        "linear",
        "ridge",
        "ceiling",
    ]
    of = dict(zip(found["scores"]["method"], found["scores"]["pearson_delta"], strict=True))
    assert of["ridge"] > 0.9 > of["additive"] > of["no change"] == 0 and found["spread"] > 0.5


def test_cells_to_predict_are_never_learnt_from():
    cells, changed = make_screen(), make_screen()
    of_wanted = changed.obs["perturbation"].isin(WANTED).to_numpy()
    changed.X[of_wanted] = changed.X[of_wanted][:, ::-1]
    for method in ("additive", "ridge"):
        assert (predict(cells, method=method).X != predict(changed, method=method).X).nnz == 0


@pytest.mark.parametrize("method", ["mean", "additive", "nearest", "linear", "ridge"])
def test_every_simple_predictor_can_make_the_prediction(method):
    if method == "mean":
        with pytest.warns(SclmWarning, match=r"3 perturbations are all alike: their spread is 0.000"):
            result = predict(method=method)
    else:
        result = predict(method=method)
    scores = entry(result)["scores"]
    row = list(scores["method"]).index(method)
    predicted = result[result.obs["perturbation"] == "GENE3"].X.mean() - result[~result.obs["sclm_predicted"]].X.mean()
    assert np.isfinite(predicted) and np.isfinite(scores["mae"][row])


@pytest.mark.filterwarnings("ignore:The predictions for 3")
def test_a_set_model_is_trained_kept_and_used_again(tmp_path, recipe):
    trained = tmp_path / "trained"
    first = predict(method="set", trained=trained, recipe=recipe)
    assert list(entry(first)["scores"]["method"])[-2:] == ["set", "ceiling"]
    again = predict(model=str(trained))
    assert_allclose(again.X.toarray(), first.X.toarray(), atol=1e-6)
    assert type(AutoModel.from_pretrained(trained)).__name__ == "CellSetForPerturbation"
    cells = make_screen()
    source = InMemorySource(cells, expects="any")
    seen = seen_by(str(trained), "", source, source.cell_ids())
    is_predicted = cells.obs["perturbation"].isin(first.obs["perturbation"][first.obs["sclm_predicted"]])
    assert seen.has_manifest and (seen.trained == ~is_predicted).all() and not seen.chose.any()
    assert_allclose(predict(model=str(trained), batch_size=3).X.toarray(), first.X.toarray(), atol=1e-6)


@pytest.mark.filterwarnings("ignore:The predictions for 3")
@pytest.mark.parametrize(("method", "kept"), [("ridge", 0), ("set", 0), ("ridge", 2**28)])
def test_a_file_is_read_when_it_is_needed_where_it_is_large(tmp_path, recipe, monkeypatch, method, kept):
    monkeypatch.setattr(reading, "KEPT_ENTRIES", kept)
    cells = make_screen()
    cells.write_h5ad(tmp_path / "screen.h5ad")
    settings = {"method": method, "perturbations": WANTED, "features": features()}
    settings |= {"trained": tmp_path / "model", "recipe": recipe} if method == "set" else {}
    run_files("predict_perturbation", tmp_path / "screen.h5ad", tmp_path / "out.h5ad", None, **settings)
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    monkeypatch.undo()
    settings |= {"trained": tmp_path / "other"} if method == "set" else {}
    expected = sclm_hf.predict_perturbation(cells, None, **settings)
    assert_allclose(written.X.toarray(), expected.X.toarray(), atol=1e-6)
    assert written.obs.astype(str).equals(expected.obs.astype(str)) and written.var.equals(expected.var)


@pytest.mark.filterwarnings("ignore:The predictions for 3")
def test_a_model_with_flags_is_trained_kept_and_used_again_whatever_the_batch(tmp_path, recipe):
    trained = tmp_path / "trained"
    first = predict(model="scgpt", trained=trained, recipe=recipe)
    again = predict(model=str(trained), batch_size=7)
    assert_allclose(again.X.toarray(), first.X.toarray(), atol=1e-5)
    assert entry(again)["model"] == str(trained)


@pytest.mark.filterwarnings("ignore:The predictions for 3")
def test_an_encoder_is_trained_into_a_model_of_perturbations(tmp_path, recipe):
    recipe.write_text("max_steps: 1\nuse_cpu: true\n")
    result = predict(model=save_checkpoint(tmp_path / "encoder"), trained=tmp_path / "trained", recipe=recipe)
    assert entry(result)["n_predicted"] == 3


@pytest.mark.filterwarnings("ignore:The predictions for 3")
def test_more_genes_than_a_model_reads_at_once_are_read_in_groups(tmp_path, recipe):
    from sclm_hf.evaluation.perturbations.screen import Screen
    from sclm_hf.opening.perturbation import open_perturbation_model
    from sclm_hf.tasks.prediction.models import TokenPredictor

    predict(model="scgpt", trained=tmp_path / "trained", recipe=recipe)
    model, processor = open_perturbation_model(str(tmp_path / "trained"))
    cells = make_screen()
    names = cells.obs["perturbation"].astype(str).to_numpy(object)
    screen = Screen(cells.X, tuple(GENES), names, np.full(len(names), "all", object), "control")
    settings = {"batch_size": 4, "species": None, "seed": 0}
    predictor = TokenPredictor(model, processor, screen, [("GENE0", "GENE1")], max_length=9, **settings)
    controls = screen.dense(screen.controls("all")[:5])
    predicted = predictor.cells(("GENE0", "GENE1"), controls)
    assert predicted.shape == (5, 30) and not (predicted == controls).all(axis=0).any()


def test_cell_types_are_predicted_from_their_own_controls(tmp_path):
    cells = make_screen(types=("T", "B"))
    split = tmp_path / "split.toml"
    split.write_text('[datasets]\nx = ""\n[training]\nx = "train"\n[fewshot."x.T"]\ntest = ["GENE3", "GENE6"]\n')
    result = predict(cells, perturbations=None, split=split, cell_type_key="cell_type")
    assert set(result.obs["cell_type"]) == {"T"}
    assert cells.obs.loc[result.obs["sclm_control_cell"].unique()[1:], "cell_type"].unique().tolist() == ["T"]


def test_the_command_writes_the_prediction_the_truth_and_the_split(tmp_path):
    make_screen().write_h5ad(tmp_path / "in.h5ad")
    features().to_csv(tmp_path / "features.csv")
    arguments = ["predict-perturbation", str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad"), "--hold-out", "0.3"]
    arguments += ["--features", str(tmp_path / "features.csv"), "--method", "nearest"]
    arguments += ["--truth", str(tmp_path / "truth.h5ad"), "--write-split", str(tmp_path / "split.toml")]
    shown = CliRunner().invoke(make_app(), arguments)
    assert shown.exit_code == 0, shown.output
    assert "By pearson_delta" in shown.output and "Spread of the predictions" in shown.output
    predicted, truth = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("out", "truth"))
    assert set(predicted.obs["perturbation"]) == set(truth.obs["perturbation"])
    assert list(predicted.var_names) == list(truth.var_names)
    controls = truth.obs_names[truth.obs["perturbation"] == "control"]
    assert (predicted[controls].X != truth[controls].X).nnz == 0
    refused = CliRunner().invoke(make_app(), [*arguments[:2], str(tmp_path / "other.h5ad"), *arguments[3:]])
    assert refused.exit_code == 1 and "truth.h5ad` exists" in refused.output.replace("\n", "")
    again = [*arguments[:3], "--split", str(tmp_path / "split.toml"), "--json", "--overwrite", *arguments[5:9]]
    shown = CliRunner().invoke(make_app(), again)
    assert json.loads(shown.stdout.splitlines()[-1])["n_predicted"] == 3


@pytest.mark.filterwarnings("ignore:The predictions for 2")
def test_by_default_a_gene_that_was_not_measured_gets_the_mean_and_is_named():
    cells = make_screen([*PERTURBED, "NEW"])
    with pytest.warns(SclmWarning, match=r"1 of 2 perturbations are predicted by the mean.*NEW\. Give `features`"):
        result = predict(cells, features=None, perturbations=["GENE3", "NEW"])
    assert entry(result)["by_mean"] == "NEW" and entry(result)["method"] == "ridge"
    others = cells[cells.obs["perturbation"] != "NEW"]
    by_ridge = predict(others, features=None, perturbations=["GENE3"], method="ridge")
    by_mean = predict(cells, features=None, perturbations=["GENE3", "NEW"], method="mean")
    for name, alone in {"GENE3": by_ridge, "NEW": by_mean}.items():
        found, expected = (one[one.obs["perturbation"] == name].X.toarray() for one in (result, alone))
        assert_allclose(found, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The predictions for", "ignore:.*are left out where features are needed")
def test_by_default_a_screen_of_genes_that_were_not_measured_gets_the_mean():
    cells = make_screen([f"NEW{number}" for number in range(6)])
    with pytest.warns(SclmWarning, match="2 of 2 perturbations are predicted by the mean"):
        found = entry(predict(cells, features=None, perturbations=None, hold_out=0.3))
    assert found["by_mean"].count("NEW") == 2 and list(found["scores"]["method"]).count("ridge") == 1


@pytest.mark.parametrize("settings", [{}, {"method": "mean"}, {"features": features()}])
def test_a_name_of_which_nothing_is_known_is_refused_with_the_closest(settings):
    settings = {"features": None, **settings}
    error = GeneCoverageError if settings["features"] is not None else ConfigurationError
    told = "none of GENEX3" if error is GeneCoverageError else "'GENEX3' is neither .*Closest to 'GENEX3': GENE3"
    with pytest.raises(error, match=told):
        predict(perturbations="GENE0+GENEX3, GENE6", **settings)


@pytest.mark.filterwarnings("ignore:1 of the 9 perturbations to learn from are left out")
def test_a_gene_of_a_combination_that_was_trained_on_is_known():
    cells = make_screen([*PERTURBED, "GENE0+NEW"])
    result = predict(cells, features=None, perturbations=["NEW"], method="mean")
    assert "NEW" in set(result.obs["perturbation"])


@pytest.mark.parametrize(
    ("ceiling", "told"),
    [((0.6, 0.1, 0.9), None), ((0.4, 0.3, 0.9), r"than ridge does by pearson_delta .* mean does by mae \(0.3")],
)
def test_the_verdict_says_where_the_ceiling_is_no_bound(ceiling, told):
    rows = {"mean": (0.1, 0.2, 0.5), "ridge": (0.5, 0.25, 0.7), "ceiling": ceiling}
    columns = dict(zip(("pearson_delta", "mae", "discrimination"), zip(*rows.values(), strict=True), strict=True))
    verdict = _verdict({"method": "ridge", "scores": {"method": list(rows), **columns}})
    assert "nothing here is better than ridge" in verdict and "discrimination" not in verdict
    assert ("no bound" in verdict) == (told is not None) and (told is None or re.search(told, verdict))


def test_combinations_may_be_named_in_any_order_and_new_ones_are_predicted():
    result = predict(perturbations="GENE1+GENE0, GENE5+GENE2")
    assert set(result.obs["perturbation"]) == {"control", "GENE0+GENE1", "GENE5+GENE2"}
    assert entry(result)["n_scored"] == 1


def with_values(change):
    cells = make_screen()
    change(cells)
    return cells


def with_antibodies():
    cells = make_screen()
    cells.var_names = ["dCas9", "CD3_TotalSeqB", *cells.var_names[2:]]
    return cells


def set_value(value):
    return with_values(lambda cells: cells.X.data.__setitem__(3, value))


def controls_only():
    cells = make_screen()
    return cells[cells.obs["perturbation"] == "control"].copy()


def without_controls():
    cells = make_screen()
    return cells[cells.obs["perturbation"] != "control"].copy()


def without_names():
    return with_values(
        lambda cells: cells.obs.__setitem__("perturbation", [None, *cells.obs["perturbation"].iloc[1:]])
    )


@pytest.mark.parametrize(
    ("cells", "settings", "error", "message"),
    [
        (controls_only, {}, ConfigurationError, "All 40 cells are controls"),
        (lambda: make_screen()[:0].copy(), {}, ConfigurationError, "There are no cells"),
        (without_controls, {}, ConfigurationError, r"No cell is a control.*`--control`"),
        (make_screen, {"control": "ctrl"}, ConfigurationError, r"`control` .* is 'ctrl', and .* GENE0"),
        (without_names, {}, ConfigurationError, "1 of 220 cells have no value"),
        (lambda: set_value(-1), {}, ExpressionError, "1 value of `X` are negative, NaN"),
        (lambda: set_value(np.nan), {}, ExpressionError, "1 value of `X` are negative, NaN"),
        (lambda: set_value(55.5), {}, ExpressionError, "neither counts nor log-normalised"),
        (make_screen, {"perturbation_key": "guide"}, ConfigurationError, "no column 'guide'.*`--perturbation-key`"),
        (make_screen, {"perturbations": ["GENE3", "NEW"]}, GeneCoverageError, "has none of NEW.*`--features`"),
        (
            make_screen,
            {"features": None, "method": "ridge", "perturbations": ["NEW"]},
            GeneCoverageError,
            "none of NEW",
        ),
        (lambda: make_screen(["GENE1", "GENE1_GENE2"]), {}, ConfigurationError, "joined by '_'.*`--separator`"),
        (lambda: make_screen(["GENE3", "GENE6"]), {}, ConfigurationError, "none is left to learn from"),
        (lambda: make_screen(["GENE3", "GENE1"]), {}, ConfigurationError, "Only 'GENE1' is left"),
        (make_screen, {"perturbations": None}, ConfigurationError, "`--hold-out`.*got none"),
        (make_screen, {"hold_out": 0.2}, ConfigurationError, "got perturbations and hold_out"),
        (make_screen, {"perturbations": ["GENE3", "GENE3"]}, ConfigurationError, "names one twice"),
        (with_antibodies, {}, ConfigurationError, "1 column not of genes: CD3_TotalSeqB"),
        (make_screen, {"perturbations": ["control"]}, ConfigurationError, "'control' is no perturbation"),
        (make_screen, {"batch_key": "batch"}, ConfigurationError, "`--batch-key`"),
        (make_screen, {"method": "magic"}, ConfigurationError, "one of mean, additive"),
        (make_screen, {"method": "model"}, ConfigurationError, "needs a `model`"),
        (make_screen, {"method": "ridge", "model": "scgpt"}, ConfigurationError, "`ridge` takes no `model`"),
        (make_screen, {"method": "set"}, ConfigurationError, "`--trained`"),
        (make_screen, {"perturbations": ["GENE5+GENE2"], "truth": "t.h5ad"}, ConfigurationError, "no cells of GENE5"),
        (
            make_screen,
            {"model": "geneformer", "trained": "t"},
            ConfigurationError,
            "predicts perturbations; scGPT has",
        ),
    ],
)
def test_what_cannot_be_predicted_is_refused(cells, settings, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        predict(cells(), **settings)


@pytest.mark.filterwarnings("ignore:The predictions for 3")
def test_a_model_that_does_not_know_a_gene_or_the_task_is_refused(tmp_path, recipe):
    predict(model="scgpt", trained=tmp_path / "trained", recipe=recipe)
    with pytest.raises(GeneCoverageError, match="1 perturbed gene, NEW"):
        predict(model=str(tmp_path / "trained"), perturbations=["NEW"])
    with pytest.raises(CheckpointError, match=r"holds no `config.json`"):
        predict(model=str(tmp_path))


def test_cell_eval_takes_what_is_written_and_scores_it_between_baseline_and_ceiling():
    pytest.importorskip("cell_eval", reason="cell-eval is not installed: pip install 'sclm_hf[cell-eval]'")
    table = entry(predict(cell_eval="full", n_cells=20))["cell_eval"]
    at = {name: row for row, name in enumerate(table["metric"])}
    assert {"mae", "discrimination_score_l1", "overlap_at_N"} <= set(at)
    assert table["predicted"][at["mae"]] < table["baseline"][at["mae"]]
    assert table["predicted"][at["pearson_delta"]] > 0.8 and table["ceiling"][at["pearson_delta"]] > 0.8
