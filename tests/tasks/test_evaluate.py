"""Predicted labels against true ones."""

import json
import re

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score
from typer.testing import CliRunner

from sclm_hf import ScGPTForSequenceClassification, annotate, evaluate
from sclm_hf.cli.main import make_app
from sclm_hf.corpora.training_manifest import CHOSEN, TRAINED, TrainingManifest, hash_counts, hash_genes
from sclm_hf.errors import ConfigurationError, CorpusError, SclmWarning
from sclm_hf.sources.in_memory import InMemorySource
from sclm_hf.tasks.running import label_baselines
from sclm_hf.tokenization.encodings.keys import hash_names

from .tiny import LABELS, make_cells, save_checkpoint


@pytest.fixture
def checkpoint(tmp_path) -> str:
    return save_checkpoint(tmp_path / "scgpt", ScGPTForSequenceClassification)


@pytest.fixture
def cells():
    cells = make_cells()
    cells.obs["cell_type"] = np.resize(list(LABELS.values()), cells.n_obs)
    return cells


def note_as_seen(checkpoint: str, cells, *, n_chose: int = 0) -> None:
    source = InMemorySource(cells, None, expects="counts")
    counts = hash_counts(source.read(np.arange(source.n_cells)), hash_genes(source))
    roles = np.array([TRAINED] * (len(counts) - n_chose) + [CHOSEN] * n_chose, object)
    TrainingManifest(np.full(len(counts), "other", object), source.cell_ids(), counts, roles).save(checkpoint)


def test_scores_are_those_of_the_labels_that_annotate_gives(checkpoint, cells):
    record = evaluate(cells, checkpoint, label_key="cell_type").uns["sclm_hf"]["sclm_prediction"]
    predicted = annotate(cells, checkpoint).obs["sclm_prediction"].astype(str)
    expected = f1_score(cells.obs["cell_type"], predicted, average="macro")
    assert record["scores"]["macro_f1"]["mean"] == pytest.approx(expected)
    assert record["per_label"]["n_cells"].sum() == record["n_scored"] == cells.n_obs
    assert not record["has_manifest"]


def test_cells_of_the_training_are_refused_left_out_or_scored(checkpoint, cells):
    note_as_seen(checkpoint, cells[:3])
    with pytest.raises(ConfigurationError, match=r"3 of the \d+ cells of .* stand in the training manifest"):
        evaluate(cells, checkpoint, label_key="cell_type")
    left_out = evaluate(cells, checkpoint, label_key="cell_type", seen="leave_out")
    scored = evaluate(cells, checkpoint, label_key="cell_type", seen="score")
    records = [one.uns["sclm_hf"]["sclm_prediction"] for one in (left_out, scored)]
    assert [record["n_scored"] for record in records] == [cells.n_obs - 3, cells.n_obs]
    assert left_out.obs["sclm_seen_in_training"].tolist() == [True] * 3 + [False] * (cells.n_obs - 3)


def test_cells_of_the_training_are_known_whatever_genes_are_read(checkpoint, cells):
    note_as_seen(checkpoint, cells[:3])
    with pytest.raises(ConfigurationError, match=r"3 of the \d+ cells of .* stand in the training manifest"):
        evaluate(cells, checkpoint, label_key="cell_type", genes=list(cells.var_names[:50]))


def test_cells_that_chose_the_model_are_refused_like_those_that_it_was_trained_on(checkpoint, cells):
    note_as_seen(checkpoint, cells[:5], n_chose=2)
    with pytest.raises(ConfigurationError, match=r"5 of .*\(3 trained on, 2 held out to choose the checkpoint"):
        evaluate(cells, checkpoint, label_key="cell_type")
    record = evaluate(cells, checkpoint, label_key="cell_type", seen="leave_out").uns["sclm_hf"]["sclm_prediction"]
    assert (record["n_scored"], record["n_seen"], record["n_chose"]) == (cells.n_obs - 5, 5, 2)


def test_cells_without_a_label_are_not_scored(checkpoint, cells):
    cells.obs.loc[cells.obs_names[:2], "cell_type"] = np.nan
    record = evaluate(cells, checkpoint, label_key="cell_type").uns["sclm_hf"]["sclm_prediction"]
    assert record["n_scored"] == cells.n_obs - 2


def test_labels_that_the_model_does_not_know_are_named(checkpoint, cells):
    cells.obs.loc[cells.obs_names[0], "cell_type"] = "unheard of"
    with pytest.warns(SclmWarning, match="does not know 1 label .*'unheard of'"):
        evaluate(cells, checkpoint, label_key="cell_type")
    cells.obs["cell_type"] = "unheard of"
    with pytest.raises(ConfigurationError, match="holds none of the 3 labels of the model"):
        evaluate(cells, checkpoint, label_key="cell_type")


def test_the_column_of_labels_must_be_named_and_there(checkpoint, cells):
    with pytest.raises(ConfigurationError, match="--label-key"):
        evaluate(cells, checkpoint)
    with pytest.raises(CorpusError, match="absent"):
        evaluate(cells, checkpoint, label_key="absent")


def test_labels_that_were_there_are_scored_like_those_of_the_model(checkpoint, cells):
    expected = evaluate(cells, checkpoint, label_key="cell_type").uns["sclm_hf"]["sclm_prediction"]
    annotated = annotate(cells, checkpoint)
    with pytest.warns(SclmWarning, match="could not be checked: .* has no training manifest"):
        scored = evaluate(annotated, prediction="sclm_prediction", label_key="cell_type")
    record = scored.uns["sclm_hf"]["sclm_prediction_scores"]
    assert record["scores"] == expected["scores"] and record["model"] == checkpoint
    assert record["per_label"]["f1"].tolist() == expected["per_label"]["f1"].tolist()
    assert list(scored.uns["sclm_hf"]) == ["sclm_prediction", "sclm_prediction_scores"]


def test_cells_without_a_predicted_label_count_as_errors_and_labels_never_named_are_told(cells):
    cells.obs["theirs"] = cells.obs["cell_type"].where(cells.obs["cell_type"] != "NK", "unassigned")
    cells.obs.loc[cells.obs_names[0], "theirs"] = np.nan
    with pytest.warns(SclmWarning, match="does not say which checkpoint made them"):
        scored = evaluate(cells, prediction="theirs", label_key="cell_type")
    record, right = scored.uns["sclm_hf"]["theirs_scores"], cells.obs["theirs"] == cells.obs["cell_type"]
    assert record["scores"]["accuracy"]["mean"] == pytest.approx(accuracy_score(np.ones(23), right))
    assert record["n_unassigned"] == (~right).sum() and record["never_named"].tolist() == ["NK"]
    assert record["per_label"]["label"].tolist() == list(LABELS.values()) and not record["has_manifest"]


def test_leaks_of_labels_that_were_there_are_looked_for_where_their_model_is_known(checkpoint, cells):
    annotated = annotate(cells, checkpoint)
    note_as_seen(checkpoint, cells[:3])
    with pytest.raises(ConfigurationError, match=r"3 of the \d+ cells of .* stand in the training manifest"):
        evaluate(annotated, prediction="sclm_prediction", label_key="cell_type")
    scored = evaluate(annotated, prediction="sclm_prediction", label_key="cell_type", seen="leave_out")
    record = scored.uns["sclm_hf"]["sclm_prediction_scores"]
    assert (record["n_scored"], record["n_seen"], record["unchecked"]) == (cells.n_obs - 3, 3, "")
    assert scored.obs["sclm_seen_in_training"].sum() == 3
    annotated.uns["sclm_hf"]["sclm_prediction"]["model"] = "gone"
    with pytest.warns(SclmWarning, match="`gone`, which made them, is not here"):
        evaluate(annotated, prediction="sclm_prediction", label_key="cell_type")


def test_labels_without_data_are_scored_too(cells):
    cells.obs["theirs"] = cells.obs["cell_type"]
    with pytest.warns(SclmWarning, match="without their counts"):
        scored = evaluate(cells[:, :0].copy(), prediction="theirs", label_key="cell_type")
    assert scored.shape == (23, 0)
    assert scored.uns["sclm_hf"]["theirs_scores"]["scores"]["accuracy"]["mean"] == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model": "somewhere"}, "either a `model`"),
        ({"embedding": "X", "batch_key": "batch"}, "either a `model`"),
        ({"prediction": ""}, "must name a column"),
        ({"prediction": "cell_type"}, "must name a column"),
        ({"unassigned_threshold": 0.5}, "--unassigned-threshold.* is for a model"),
        ({"genes": "GENE1"}, "--genes.* is for a model"),
        ({"label_key": "batch"}, "holds none of the 3 labels of `obs\\['cell_type2'\\]`"),
    ],
)
def test_what_does_not_go_with_labels_that_were_there_is_refused(cells, settings, told):
    cells.obs["cell_type2"] = cells.obs["cell_type"]
    with pytest.raises(ConfigurationError, match=told):
        evaluate(cells, **({"prediction": "cell_type2", "label_key": "cell_type"} | settings))


def test_the_command_scores_a_column_of_a_file(cells, tmp_path):
    cells.obs["theirs"] = cells.obs["cell_type"].to_numpy()[::-1]
    cells.write_h5ad(tmp_path / "in.h5ad")
    flags = ["--prediction", "theirs", "--label-key", "cell_type"]
    arguments = ["evaluate", str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad"), *flags]
    with pytest.warns(SclmWarning, match="could not be checked"):
        done = CliRunner().invoke(make_app(), arguments)
        as_json = CliRunner().invoke(make_app(), [*arguments, "--json", "--overwrite"])
    assert done.exit_code == 0 and "macro-F1" in done.output, done.output
    record = json.loads(as_json.stdout.strip().splitlines()[-1])
    assert record["never_named"] == [] and "does not say which checkpoint" in record["unchecked"]


def test_simple_methods_stand_beside_the_scores(checkpoint, cells, tmp_path):
    counts = cells.X.toarray()
    counts[np.arange(23), 1 + np.arange(23) % 3] = 3000
    cells.X = counts
    cells.obs["theirs"] = cells.obs["cell_type"].to_numpy()[::-1]
    cells.write_h5ad(tmp_path / "in.h5ad")
    flags = ["--label-key", "cell_type", "--json"]
    arguments = ["evaluate", str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad"), "--model", checkpoint, *flags]
    done = CliRunner().invoke(make_app(), arguments)
    baselines = json.loads(done.stdout.strip().splitlines()[-1])["baselines"]
    share = 8 / 23
    expected = {"label": "B cell", "accuracy": share, "macro_f1": 2 * share / (1 + share) / 3}
    assert baselines["most_frequent"] == pytest.approx(expected)
    assert baselines["logistic_regression"] == {"accuracy": 1, "macro_f1": 1, "n_cells": 23, "n_folds": 5}
    with pytest.warns(SclmWarning, match="could not be checked"):
        scored = evaluate(cells, prediction="theirs", label_key="cell_type")
    assert scored.uns["sclm_hf"]["theirs_scores"]["baselines"] == baselines
    told = CliRunner().invoke(make_app(), arguments[:-1])
    assert "It was given labels of this very file" in " ".join(told.output.split())
    without = CliRunner().invoke(make_app(), [*arguments, "--no-baselines", "--overwrite"])
    assert "baselines" not in json.loads(without.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize(("layer", "told"), [("X", "'NK' has 4"), ("logs", "logs.*holds no counts")])
def test_a_simple_method_that_cannot_be_taught_says_why(cells, layer, told):
    cells.layers["logs"] = cells.X.log1p()
    cells.obs["theirs"] = cells.obs["cell_type"]
    cells = cells[: 14 if layer == "X" else 23].copy()
    with pytest.warns(SclmWarning, match="could not be checked"):
        scored = evaluate(cells, prediction="theirs", label_key="cell_type", layer=layer)
    baselines = scored.uns["sclm_hf"]["theirs_scores"]["baselines"]
    assert re.search(told, baselines["logistic_regression"]["left_out"]) and "accuracy" in baselines["most_frequent"]


def test_a_draw_of_cells_depends_on_their_names_alone_and_keeps_rare_labels(monkeypatch):
    monkeypatch.setattr(label_baselines, "MOST_CELLS", 50)
    ids, labels = (
        hash_names([f"cell {number}" for number in range(1000)]),
        np.array(["a", "b"], object)[(np.arange(1000) < 6).astype(int)],
    )
    drawn = label_baselines._drawn(ids, labels, np.arange(1000), 0)
    order = np.random.default_rng(0).permutation(1000)
    again = label_baselines._drawn(ids[order], labels[order], np.arange(1000), 0)
    assert len(drawn) == 50 and (labels[drawn] == "b").sum() >= 5 and set(ids[drawn]) == set(ids[order][again])
    assert set(drawn) != set(label_baselines._drawn(ids, labels, np.arange(1000), 1))
