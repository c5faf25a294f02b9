"""Domains of tissue, by a model, from memory and from files."""

import json

import anndata
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score
from typer.testing import CliRunner

from sclm_hf import cluster, embed, spatial
from sclm_hf.cli.main import make_app
from sclm_hf.errors import ConfigurationError, CorpusError
from sclm_hf.tasks.files.file_to_file import run_files

from . import sample_model
from .tiny import make_cells, save_checkpoint

pytest.importorskip("igraph")
QUICK = {"resolutions": [0.3, 1], "n_subsamples": 1}


@pytest.fixture
def cells():
    """Two slices of 6 × 10 spots; the left and the right half of each have ten genes of their own."""
    cells = make_cells(120)
    x, y = np.arange(60) % 10, np.arange(60) // 10
    cells.obsm["spatial"] = np.tile(np.column_stack([x, y]), (2, 1)).astype(float)
    cells.obs["slice"], cells.obs["region"] = np.repeat(["a", "b"], 60), np.tile(np.where(x < 5, "left", "right"), 2)
    counts = cells.X.toarray()
    for number, side in enumerate(("left", "right")):
        counts[np.ix_(cells.obs["region"] == side, range(10 * number, 10 * number + 10))] += 20
    cells.X = counts
    return cells


@pytest.fixture
def model(tmp_path):
    return save_checkpoint(tmp_path / "model")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The embeddings in")
def test_domains_are_leiden_clusters_of_means_over_neighbours(cells, model):
    found = spatial(cells, model, sample_key="slice", neighbours=4, **QUICK)
    plain, smoothed = embed(cells, model).obsm["X_scgpt"], found.obsm["X_sclm_domain"]
    assert smoothed.shape == plain.shape and smoothed.dtype == np.float32
    # spot 34 of the first slice lies inside: four neighbours at the same distance
    weights = np.exp(-0.5 / mean_distance() ** 2)
    expected = (plain[34] + weights * plain[[24, 33, 35, 44]].sum(axis=0)) / (1 + 4 * weights)
    np.testing.assert_allclose(smoothed[34], expected, rtol=1e-5)
    again = cluster(found, use_rep="X_sclm_domain", n_markers=0, **QUICK)
    assert again.obs["sclm_cluster"].tolist() == found.obs["sclm_domain"].tolist()
    assert "sclm_domain" not in cells.obs


def mean_distance():
    """Of the four nearest spots on a grid of 6 × 10."""
    places = np.column_stack([np.arange(60) % 10, np.arange(60) // 10])
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    return np.sort(distances, axis=1)[:, 1:5].mean()


@pytest.mark.slow
def test_simple_methods_come_first_among_the_scores(cells, model):
    found = spatial(cells, model, sample_key="slice", domains=2, label_key="region", n_subsamples=1)
    record = found.uns["sclm_hf"]["sclm_domain"]
    scores = record["scores"]
    assert scores["method"].tolist() == [
        "PCA + Leiden",
        "smoothed PCA + Leiden",
        "smoothed PCA + k-means",
        "model + Leiden",
        "smoothed model + Leiden",
    ]
    assert scores["ari"][2] == 1 and scores["coherence"][2] == record["label_coherence"] < 1
    assert scores["ari"][-1] == pytest.approx(adjusted_rand_score(found.obs["sclm_domain"], cells.obs["region"]))
    assert (scores["n_domains"] == 2).all() and record["sweep"]["n_domains"].tolist() == [2]
    assert record["slices"]["name"].tolist() == ["a", "b"] and record["slices"]["n_cells"].tolist() == [60, 60]


@pytest.mark.slow
def test_the_command_gives_the_same_and_prints_json(cells, model, tmp_path):
    in_memory = spatial(cells, model, sample_key="slice", **QUICK)
    cells.write_h5ad(tmp_path / "in.h5ad")
    files = [str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad")]
    flags = ["--model", model, "--sample-key", "slice", "--resolutions", "0.3,1", "--n-subsamples", "1"]
    done = CliRunner().invoke(make_app(), ["spatial", *files, *flags, "--plot", str(tmp_path / "tissue.png")])
    assert done.exit_code == 0 and "coherence" in done.output, done.output
    again = ["spatial", files[0], str(tmp_path / "new.h5ad"), *flags, "--plot", str(tmp_path / "tissue.png")]
    refused = CliRunner().invoke(make_app(), again)
    assert refused.exit_code == 1 and "--overwrite" in refused.output
    written = anndata.read_h5ad(files[1])
    assert (tmp_path / "tissue.png").read_bytes()[1:4] == b"PNG"
    assert written.obs["sclm_domain"].tolist() == in_memory.obs["sclm_domain"].tolist()
    np.testing.assert_array_equal(written.obsm["X_sclm_domain"], in_memory.obsm["X_sclm_domain"])
    told = json.loads(CliRunner().invoke(make_app(), ["spatial", *files, *flags, "--json"]).stdout)
    assert told["n_cells"] == 120 and told["slices"]["name"] == ["a", "b"] and len(told["sweep"]["coherence"]) == 2


@pytest.mark.slow
def test_an_embedding_that_the_cells_have_is_smoothed_and_clustered_without_a_model(cells):
    cells.obsm["X_mine"] = np.random.default_rng(0).normal(size=(120, 3))
    cells.obsm["X_mine"][cells.obs["region"] == "left"] += 5
    found = spatial(cells, use_rep="X_mine", sample_key="slice", neighbours=4, label_key="region", **QUICK)
    mine, smoothed = cells.obsm["X_mine"], found.obsm["X_sclm_domain"]
    weights = np.exp(-0.5 / mean_distance() ** 2)
    expected = (mine[34] + weights * mine[[24, 33, 35, 44]].sum(axis=0)) / (1 + 4 * weights)
    np.testing.assert_allclose(smoothed[34], expected, rtol=1e-5)
    again = cluster(found, use_rep="X_sclm_domain", n_markers=0, **QUICK)
    assert again.obs["sclm_cluster"].tolist() == found.obs["sclm_domain"].tolist()
    record = found.uns["sclm_hf"]["sclm_domain"]
    assert record["scores"]["method"][-2:].tolist() == ["X_mine + Leiden", "smoothed X_mine + Leiden"]
    assert (record["model"], record["settings"]["use_rep"]) == ("", "X_mine") and "sclm_domain" not in cells.obs


@pytest.mark.parametrize("verb", ["spatial", "cluster"])
def test_a_model_and_an_embedding_or_neither_are_refused(cells, model, verb, tmp_path):
    cells.write_h5ad(tmp_path / "in.h5ad")
    for given, settings in ((model, {"use_rep": "spatial"}), (None, {})):
        with pytest.raises(ConfigurationError, match=r"either a `model` \(`--model`\), or an embedding in `obsm`"):
            run_files(verb, tmp_path / "in.h5ad", tmp_path / "out.h5ad", given, **settings)


def test_a_file_without_coordinates_is_refused(cells, model, tmp_path):
    del cells.obsm["spatial"]
    cells.obsm["X_pca"] = np.ones((120, 2))
    for ending, write in ((".h5ad", cells.write_h5ad), (".zarr", cells.write_zarr)):
        write(tmp_path / f"in{ending}")
        with pytest.raises(ConfigurationError, match=r"no coordinates `obsm\['spatial'\]`, it has \['X_pca'\]"):
            run_files("spatial", tmp_path / f"in{ending}", tmp_path / "out.h5ad", model)


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"spatial_key": "places"}, ConfigurationError, "--spatial-key"),
        ({"neighbours": 60}, ConfigurationError, r"Slice 'a' has 60 cells, too few for 60 neighbours.*--neighbours"),
        ({"domains": 121}, ConfigurationError, r"asks for 121 domains of 120 cells"),
        ({"sample_key": "section"}, CorpusError, "section"),
        ({"label_key": "slide"}, CorpusError, "slide"),
        ({"neighbours": 0}, ConfigurationError, "must be at least 1"),
        ({"resolutions": "a"}, ConfigurationError, "numbers above 0"),
    ],
)
def test_refused(cells, model, settings, error, told):
    with pytest.raises(error, match=told):
        spatial(cells, model, **({"sample_key": "slice"} | settings))


def test_a_slice_without_coordinates_among_several_is_named(cells, model):
    cells.obsm["spatial"][60:] = np.nan
    with pytest.raises(ConfigurationError, match=r"60 of 120 cells.*among them all of the slices \['b'\]"):
        spatial(cells, model, sample_key="slice")


def test_too_few_cells_are_refused(cells, model):
    with pytest.raises(ConfigurationError, match="19 cells are too few for domains"):
        spatial(cells[:19], model)


@pytest.mark.slow
def test_slices_are_the_samples_of_a_model_that_sees_whole_samples():
    cells = sample_model.make_cells()
    cells.obsm["spatial"] = np.random.default_rng(0).random((40, 2))
    model = sample_model.make_model()
    model.config.stochastic_latent = False
    found = spatial(cells, model, sample_model.make_processor(), sample_key="batch", neighbours=3, **QUICK)
    assert found.uns["sclm_hf"]["sclm_domain"]["samples"]["column"] == "batch" and len(model.calls) == 3
