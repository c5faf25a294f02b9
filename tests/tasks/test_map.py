"""Labels of the nearest cells of a labelled reference."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
from typer.testing import CliRunner

from sclm_hf import ScGPTModel, embed
from sclm_hf import map as map_cells
from sclm_hf.cli.main import make_app
from sclm_hf.errors import CheckpointError, ConfigurationError, CorpusError, ExpressionError
from sclm_hf.tasks.files.file_to_file import run_files

from .tiny import make_cells, save_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("scgpt"))


def make_reference(n_cells=40):
    cells = make_cells(n_cells, seed=1)
    cells.obs_names = [f"reference {number}" for number in range(n_cells)]
    cells.obs["cell_type"] = np.where(np.asarray((cells.X > 0).sum(1)).ravel() > 45, "rich", "poor")
    return cells


def expected(cells, reference, model, k):
    """Labels, shares and distances by brute force."""
    one, other = (embed(each, model).obsm["X_scgpt"] for each in (cells, reference))
    one, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (one, other))
    nearest = np.argsort(-(one @ other.T), axis=1)[:, :k]
    is_rich = (reference.obs["cell_type"].to_numpy() == "rich")[nearest].mean(1)
    distance = 1 - np.take_along_axis(one @ other.T, nearest, axis=1).mean(1)
    return np.where(is_rich > 0.5, "rich", "poor"), np.maximum(is_rich, 1 - is_rich), distance


def test_labels_are_those_of_the_nearest_reference_cells(model):
    cells, reference = make_cells(), make_reference()
    found = map_cells(cells, model, reference=reference, label_key="cell_type", n_neighbours=5, batch_size=7)
    labels, share, distance = expected(cells, reference, model, 5)
    record = found.uns["sclm_hf"]["sclm_map"]
    is_far = distance > record["largest_distance"]
    assert found.obs["sclm_map"].tolist() == np.where(is_far, "unknown", labels).tolist()
    np.testing.assert_allclose(found.obs["sclm_map_share"], share)
    np.testing.assert_allclose(found.obs["sclm_map_distance"], distance, atol=1e-6)
    assert record["n_unknown"] == is_far.sum() and record["reference"]["label_key"] == "cell_type"


def test_what_is_unknown_follows_from_distances_of_reference_cells_to_others(model):
    reference = make_reference()
    settings = {"reference": reference, "label_key": "cell_type", "n_neighbours": 3, "same_names": "leave_out"}
    found = map_cells(reference, model, unknown_quantile=0.8, **settings)
    record, distance = found.uns["sclm_hf"]["sclm_map"], found.obs["sclm_map_distance"]
    assert record["largest_distance"] == pytest.approx(np.quantile(distance, 0.8), abs=1e-6)
    assert (found.obs["sclm_map"] == "unknown").sum() == 8 == record["n_unknown"]
    everything = map_cells(reference, model, unknown_quantile=1, **settings)
    accuracy = (everything.obs["sclm_map"] == reference.obs["cell_type"]).mean()
    assert everything.uns["sclm_hf"]["sclm_map"]["leave_one_out_accuracy"] == pytest.approx(accuracy)
    kept = map_cells(reference, model, **(settings | {"same_names": "keep"})).obs["sclm_map_distance"]
    assert (kept < distance).all()


def test_distances_to_other_groups_are_no_smaller(model):
    settings = {"reference": make_reference(), "label_key": "cell_type", "n_neighbours": 4}
    within, across = (
        map_cells(make_cells(), model, group_key=key, **settings).uns["sclm_hf"]["sclm_map"]["largest_distance"]
        for key in (None, "batch")
    )
    assert across > within


def test_faiss_gives_the_same(model):
    pytest.importorskip("faiss")
    settings = {"reference": make_reference(), "label_key": "cell_type"}
    exact, faiss = (map_cells(make_cells(), model, backend=one, **settings).obs for one in ("exact", "faiss"))
    assert exact["sclm_map"].tolist() == faiss["sclm_map"].tolist()


def test_an_index_is_saved_read_again_and_travels_with_the_model(model, tmp_path):
    pytest.importorskip("pyarrow")
    settings = {"reference": make_reference(), "label_key": "cell_type"}
    folder = shutil.copytree(model, tmp_path / "model")
    built = map_cells(make_cells(), folder, index=folder / "reference_index", **settings)
    again = map_cells(make_cells(), folder, index=folder / "reference_index", **settings)
    beside = map_cells(make_cells(), folder)
    for other in (again, beside):
        assert other.obs.equals(built.obs)


def test_an_index_of_other_cells_or_another_model_is_refused(model, tmp_path):
    pytest.importorskip("pyarrow")
    reference, index = make_reference(), tmp_path / "index"
    map_cells(make_cells(), model, reference=reference, label_key="cell_type", index=index)
    reference.obs["other"] = "same"
    with pytest.raises(CheckpointError, match="another `label_key`, another `reference`: name another folder"):
        map_cells(make_cells(), model, reference=reference, label_key="other", index=index)
    other = save_checkpoint(tmp_path / "other", ScGPTModel, pad_value=-3)
    with pytest.raises(CheckpointError, match=f"built with another model, `{Path(model).name}`"):
        map_cells(make_cells(), other, index=index)
    (index / "cells.parquet").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        map_cells(make_cells(), model, index=index)


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({}, ConfigurationError, "has no `reference_index`: name labelled cells"),
        ({"index": "nowhere"}, ConfigurationError, "There is no index `nowhere`"),
        ({"reference": make_reference()}, ConfigurationError, "Name with `label_key`"),
        ({"reference": make_reference(), "label_key": "x"}, CorpusError, "no column `x`"),
        ({"reference": make_reference()[:0], "label_key": "cell_type"}, ExpressionError, "no cells"),
        (
            {"reference": make_reference(9), "label_key": "cell_type"},
            ConfigurationError,
            "has 9 cells: `n_neighbours`",
        ),
        ({"reference": make_cells(), "label_key": "batch"}, ConfigurationError, "23 of 23 cells, such as 'cell 0'"),
        ({"reference": "no.h5ad", "label_key": "cell_type"}, CorpusError, "does not exist"),
        ({"same_names": "x"}, ConfigurationError, "`same_names`"),
    ],
)
def test_refused(model, settings, error, told):
    with pytest.raises(error, match=told):
        map_cells(make_cells(), model, **settings)


def test_what_does_not_fit_is_refused_before_the_reference_is_embedded(model, monkeypatch):
    monkeypatch.setattr("sclm_hf.tasks.mapping.reference.run_cells", None)
    settings = {"reference": make_reference(), "label_key": "cell_type", "group_key": "batch"}
    with pytest.raises(ConfigurationError, match="have the name of a reference cell"):
        map_cells(make_reference()[:5], model, **settings)
    with pytest.raises(ConfigurationError, match="against the 20 reference cells of other groups"):
        map_cells(make_cells(), model, n_neighbours=21, **settings)


def test_reference_and_cells_are_read_by_the_same_genes_each_from_its_layer(model, tmp_path):
    pytest.importorskip("pyarrow")
    cells, reference, genes = make_cells(), make_reference(), [f"GENE{number}" for number in range(60)]
    settings = {"label_key": "cell_type", "n_neighbours": 5}
    small = [one[:, genes].copy() for one in (cells, reference)]
    expected = map_cells(small[0], model, reference=small[1], **settings).obs["sclm_map_distance"]
    cells.layers["mine"], reference.layers["theirs"] = cells.X.copy(), reference.X.copy()
    cells.X, reference.X = cells.X.log1p(), reference.X.log1p()
    place = {"layer": "mine", "reference_layer": "theirs", "genes": genes, "index": tmp_path / "index"}
    found = map_cells(cells, model, reference=reference, **settings, **place).obs["sclm_map_distance"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(CheckpointError, match="another `genes`"):
        map_cells(cells, model, index=tmp_path / "index", n_neighbours=5, layer="mine")


def test_groups_and_names_that_do_not_fit_are_refused(model):
    reference = make_reference()
    reference.obs["one"] = "a"
    settings = {"reference": reference, "label_key": "cell_type"}
    with pytest.raises(ConfigurationError, match="against the 0 reference cells of other groups"):
        map_cells(make_cells(), model, group_key="one", **settings)
    with pytest.raises(ConfigurationError, match="holds one label only, 'a'"):
        map_cells(make_cells(), model, reference=reference, label_key="one")
    alike = make_reference()
    alike.X = alike.X[np.zeros(40, int)]
    with pytest.raises(ExpressionError, match="all 40 cells have the same values"):
        map_cells(make_cells(), model, reference=alike, label_key="cell_type")
    reference.obs_names = ["same"] * 40
    with pytest.raises(ConfigurationError, match="cells of the same name"):
        map_cells(make_cells(), model, **settings)


def test_the_command_writes_what_the_function_adds_and_saves_the_index(model, tmp_path):
    pytest.importorskip("pyarrow")
    cells, reference, result, index = (str(tmp_path / name) for name in ("in.h5ad", "r.h5ad", "out.h5ad", "index"))
    make_cells().write_h5ad(cells)
    make_reference().write_h5ad(reference)
    arguments = ["map", cells, result, "--model", model, "--index", index]
    done = CliRunner().invoke(make_app(), [*arguments, "--reference", reference, "--label-key", "cell_type"])
    assert done.exit_code == 0 and "of which the same vote labels" in done.output, done.output
    in_memory = map_cells(make_cells(), model, reference=make_reference(), label_key="cell_type")
    assert anndata.read_h5ad(result).obs["sclm_map"].tolist() == in_memory.obs["sclm_map"].tolist()
    # the same reference, said otherwise
    again = CliRunner().invoke(make_app(), [*arguments, "--json"])
    assert again.exit_code == 0, again.output
    told = json.loads(again.stdout.splitlines()[-1])
    assert sum(told["n_labelled"].values()) == told["n_cells"] == 23 and told["reference"]["n_cells"] == 40
    facts = json.loads((tmp_path / "index" / "index.json").read_text())
    assert facts["n_cells"] == 40 and facts["source"] == "r.h5ad"
    assert str(tmp_path) not in json.dumps(facts) and facts["model_name"] == Path(model).name


def test_an_index_of_other_counts_with_the_same_sum_is_refused(model, tmp_path):
    pytest.importorskip("pyarrow")
    settings = {"label_key": "cell_type", "index": tmp_path / "index"}
    reference = make_reference()
    map_cells(make_cells(), model, reference=reference, **settings)
    reference.X = reference.X[:, ::-1]
    with pytest.raises(CheckpointError, match="another `reference`"):
        map_cells(make_cells(), model, reference=reference, **settings)
    facts = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "index" / "index.json").write_text(json.dumps(facts | {"n_cells": "40"}))
    with pytest.raises(CheckpointError, match="does not tell of the 40 cells"):
        map_cells(make_cells(), model, index=tmp_path / "index")


@pytest.mark.parametrize("facts", [{"/X": "text"}, {"/obs/batch": "text"}, {"more": [1, "a", None]}])
def test_of_the_facts_of_an_index_only_known_ones_go_into_a_file(model, tmp_path, facts):
    pytest.importorskip("pyarrow")
    index, cells = tmp_path / "index", make_cells()
    map_cells(cells, model, reference=make_reference(), label_key="cell_type", index=index)
    change_facts(index, facts)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    run_files("map", tmp_path / "cells.h5ad", tmp_path / "out.h5ad", model, index=index)
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(written.X.toarray(), cells.X.toarray())
    assert written.obs["batch"].tolist() == cells.obs["batch"].tolist()
    assert not facts.keys() & written.uns["sclm_hf"]["sclm_map"]["reference"].keys()


def change_facts(index, facts):
    told = json.loads((index / "index.json").read_text())
    (index / "index.json").write_text(json.dumps(told | facts))


@pytest.mark.parametrize("facts", [{"source": ["a"]}, {"label_key": None}, {"n_cells": 3}, {"model_name": {"a": 1}}])
def test_facts_of_another_type_are_refused(model, tmp_path, facts):
    pytest.importorskip("pyarrow")
    map_cells(make_cells(), model, reference=make_reference(), label_key="cell_type", index=tmp_path / "index")
    change_facts(tmp_path / "index", facts)
    with pytest.raises(CheckpointError, match="does not tell of the 40 cells"):
        map_cells(make_cells(), model, index=tmp_path / "index")
