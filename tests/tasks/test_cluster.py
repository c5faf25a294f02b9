"""Clusters over resolutions, by a model or by an embedding that cells have."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score
from typer.testing import CliRunner

from sclm_hf import cluster
from sclm_hf.cli.main import make_app
from sclm_hf.errors import ConfigurationError, ExpressionError, SclmWarning

from .tiny import make_cells, save_checkpoint

pytest.importorskip("igraph")
QUICK = {"resolutions": [0.3, 1], "n_subsamples": 2, "n_neighbours": 5}


@pytest.fixture
def cells():
    """Three groups, each with ten genes of its own."""
    cells, generator = make_cells(90), np.random.default_rng(0)
    group = np.arange(90) % 3
    counts = cells.X.toarray()
    for number in range(3):
        counts[np.ix_(group == number, range(10 * number, 10 * number + 10))] += 20
    cells.X, cells.obs["group"] = counts, group
    cells.obsm["X_three"] = np.eye(3)[group] + generator.normal(0, 0.1, (90, 3))
    return cells


@pytest.mark.slow
def test_groups_and_their_genes_are_found(cells):
    found = cluster(cells, use_rep="X_three", **QUICK)
    assert adjusted_rand_score(found.obs["sclm_cluster"], cells.obs["group"]) == 1
    record = found.uns["sclm_hf"]["sclm_cluster"]
    assert record["resolution"] == 0.3 and record["sweep"]["n_clusters"][0] == 3
    assert record["sweep"]["stability"][0] == 1 >= record["sweep"]["stability"][1]
    assert found.obs["sclm_cluster"].value_counts(sort=False).is_monotonic_decreasing
    first = record["markers"]["cluster"] == found.obs["sclm_cluster"].iloc[0]
    assert set(record["markers"]["gene"][first]) == {f"GENE{number}" for number in range(10)}
    assert "sclm_cluster" not in cells.obs


@pytest.mark.slow
def test_the_same_seed_gives_the_same_and_the_result_survives_the_file(cells, tmp_path):
    one, two = (cluster(cells, use_rep="X_three", **QUICK) for _ in range(2))
    assert one.obs.equals(two.obs)
    one.write_h5ad(tmp_path / "out.h5ad")
    again = anndata.read_h5ad(tmp_path / "out.h5ad").uns["sclm_hf"]["sclm_cluster"]
    np.testing.assert_array_equal(again["markers"]["score"], two.uns["sclm_hf"]["sclm_cluster"]["markers"]["score"])


@pytest.mark.slow
def test_as_many_clusters_as_asked_for(cells):
    found = cluster(cells, use_rep="X_three", n_clusters=4, n_markers=0, n_subsamples=1, n_neighbours=5)
    assert found.obs["sclm_cluster"].nunique() == 4
    assert found.uns["sclm_hf"]["sclm_cluster"]["markers"] == {}


@pytest.mark.slow
def test_one_cluster_is_told_of(cells):
    cells.obsm["X_three"] = np.random.default_rng(0).normal(size=(90, 2))
    with pytest.warns(SclmWarning, match="No resolution finds more than one cluster"):
        found = cluster(cells, use_rep="X_three", **(QUICK | {"resolutions": "0.001"}))
    assert found.obs["sclm_cluster"].nunique() == 1


@pytest.mark.slow
def test_a_model_and_the_command_give_the_same(cells, tmp_path):
    model = save_checkpoint(tmp_path / "model")
    in_memory = cluster(cells, model, **QUICK)
    cells.write_h5ad(tmp_path / "in.h5ad")
    flags = ["--resolutions", "0.3,1", "--n-subsamples", "2", "--n-neighbours", "5"]
    arguments = ["cluster", str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad"), "--model", model, *flags]
    done = CliRunner().invoke(make_app(), arguments)
    assert done.exit_code == 0 and "stability" in done.output, done.output
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert written.obs["sclm_cluster"].tolist() == in_memory.obs["sclm_cluster"].tolist()


@pytest.mark.slow
def test_the_command_prints_json(cells, tmp_path):
    cells.write_h5ad(tmp_path / "in.h5ad")
    files = [str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad")]
    flags = ["--use-rep", "X_three", "--resolutions", "0.3", "--n-subsamples", "1", "--n-neighbours", "5", "--json"]
    done = CliRunner().invoke(make_app(), ["cluster", *files, *flags])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["sweep"]["n_clusters"] == [3] and told["n_cells"] == 90 and len(told["markers"]["gene"]) == 30


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({}, ConfigurationError, "either a `model`"),
        ({"use_rep": "X_no"}, ConfigurationError, r"no 'X_no'.*it has \['X_three'\]"),
        ({"use_rep": "X_three", "n_neighbours": 72}, ConfigurationError, "too few for `n_neighbours=72`"),
        ({"use_rep": "X_three", "n_clusters": 91}, ConfigurationError, "91 clusters of 90 cells"),
        ({"use_rep": "X_three", "resolutions": "a"}, ConfigurationError, "numbers above 0"),
        ({"use_rep": "X_three", "resolutions": [0]}, ConfigurationError, "numbers above 0"),
        ({"use_rep": "X_same"}, ExpressionError, "the same for all 90 cells"),
        ({"use_rep": "X_nan"}, ExpressionError, "finite"),
        ({"use_rep": "X_three", "layer": "scaled"}, ExpressionError, "holds no counts"),
    ],
)
def test_refused(cells, settings, error, told):
    if settings.get("use_rep") in ("X_same", "X_nan"):
        cells.obsm[settings["use_rep"]] = np.full((90, 2), 1 if settings["use_rep"] == "X_same" else np.nan)
    cells.layers["scaled"] = cells.X / 3
    with pytest.raises(error, match=told):
        cluster(cells, **settings)


def test_a_model_on_too_few_cells_is_refused_before_it_runs(tmp_path):
    with pytest.raises(ConfigurationError, match="too few for `n_neighbours=15`"):
        cluster(make_cells(18), save_checkpoint(tmp_path))


def test_the_command_draws_a_umap_and_writes_the_markers(cells, tmp_path, monkeypatch):
    monkeypatch.setattr("sclm_hf.evaluation.plots.umap_layout", lambda embedding, seed: embedding[:, :2].copy())
    cells.write_h5ad(tmp_path / "in.h5ad")
    plot, table = tmp_path / "cells.png", tmp_path / "markers.csv"
    flags = ["--use-rep", "X_three", "--resolutions", "0.3", "--n-subsamples", "1", "--n-neighbours", "5"]
    beside = ["--plot", str(plot), "--table", str(table)]
    arguments = ["cluster", str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad"), *flags, *beside]
    done = CliRunner().invoke(make_app(), arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    found, markers = anndata.read_h5ad(tmp_path / "out.h5ad"), pd.read_csv(table)
    np.testing.assert_array_equal(found.obsm["X_umap"], cells.obsm["X_three"][:, :2])
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert list(markers) == ["cluster", "gene", "score", "log2_fold_change", "p_adjusted"] and len(markers) == 30
    assert markers["cluster"].tolist() == [number // 10 for number in range(30)]
    record = json.loads((tmp_path / "markers.json").read_text())["cluster"]
    assert record["settings"]["use_rep"] == "X_three" and record["resolution"] == 0.3 and "versions" in record
    again = CliRunner().invoke(make_app(), [*arguments[:2], str(tmp_path / "new.h5ad"), *flags, *beside])
    assert again.exit_code == 1 and "--overwrite" in again.output and not (tmp_path / "new.h5ad").exists()


def test_a_umap_that_was_there_stays(cells, monkeypatch):
    monkeypatch.setattr("sclm_hf.evaluation.plots.umap_layout", lambda embedding, seed: embedding[:, :2].copy())
    cells.obsm["X_umap"] = np.zeros((90, 2))
    found = cluster(cells, use_rep="X_three", umap=True, n_markers=0, **QUICK)
    assert not found.obsm["X_umap"].any() and found.obsm["sclm_cluster_umap"].any()
    assert found.uns["sclm_hf"]["sclm_cluster"]["umap"] == "sclm_cluster_umap"
    assert set(cluster(cells, use_rep="X_three", n_markers=0, **QUICK).obsm) == {"X_three", "X_umap"}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--plot", "{}/a.txt"], "as an image is"),
        (["--table", "{}/a.txt"], "`….csv`"),
        (["--table", "{}/in.h5ad"], "`….csv`"),
        (["--table", "{}/a.tsv", "--n-markers", "0"], "asks for none"),
        (["--plot", "{}/in.h5ad"], "named for something else"),
    ],
)
def test_what_could_not_be_written_beside_is_refused_before_the_work(cells, tmp_path, flags, told):
    cells.write_h5ad(tmp_path / "in.h5ad")
    files = [str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad")]
    done = CliRunner().invoke(
        make_app(), ["cluster", *files, "--use-rep", "X_three", *(one.format(tmp_path) for one in flags)]
    )
    assert done.exit_code == 1 and told in " ".join(done.output.split()), done.output
