"""TransformerST: the numbers of the original, its graphs, training, the verbs, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import sclm_hf
from sclm_hf.cli.main import app
from sclm_hf.errors import ConfigurationError
from sclm_hf.opening.specialists import load_specialist
from sclm_hf.specialists.transformerst.clusters_transformerst import k_means, sharpened
from sclm_hf.specialists.transformerst.modeling_transformerst import neighbour_labels
from sclm_hf.specialists.transformerst.neighbours_transformerst import (
    edges_between,
    interpolate,
    nearest_spots,
    with_colours,
)
from sclm_hf.specialists.transformerst.processing_transformerst import TransformerSTProcessor

from ..common import SpecialistTester, close, golden_arrays, labelled_cells, open_golden


def test_numbers_of_the_original(tmp_path):
    recorded = golden_arrays("transformerst", "case_a")
    model = open_golden("transformerst", "case_a", tmp_path, dtype=torch.float64)
    edges = tuple(torch.from_numpy(recorded[f"edge_index_{one}"]) for one in "ab")
    output = model(torch.from_numpy(recorded["features"]), *edges, cluster_step=1, return_loss=True)
    close(output.cell_embedding, recorded["latent"])
    close(output.reconstruction, recorded["reconstruction"])
    close(output.clusters, recorded["q"])
    close(output.features, recorded["feat_x"])
    assert output.codes.tolist() == recorded["code_index"].tolist()
    close(neighbour_labels(14, edges), recorded["adj_label"])
    close(sharpened(output.clusters), recorded["p_target"])
    losses = {"graph_loss": "loss_gcn", "reconstruction_loss": "loss_rec"}
    for ours, theirs in losses.items():
        assert output[ours].item() == pytest.approx(float(recorded[theirs]), rel=5e-5)
    # so small a number was rounded in single precision
    assert output.cluster_loss.item() == pytest.approx(float(recorded["loss_kl"]), abs=1e-8)


def spots(n_columns: int = 8, seed: int = 0):
    """Spots on a grid, the left and the right half of different types."""
    cells = labelled_cells(n_columns * 8, n_types=2, seed=seed)
    order = np.argsort(cells.obs["cell_type"].to_numpy(), kind="stable")
    cells = cells[order].copy()
    number = np.arange(cells.n_obs)
    cells.obsm["spatial"] = np.stack([number // 8, number % 8], axis=1).astype(float)
    return cells


class TestTransformerST(SpecialistTester):
    name = "transformerst"
    settings = {"n_neighbours": 6}
    model_config = {
        "feature_hidden_size": 16,
        "code_size": 8,
        "num_codes": 12,
        "graph_hidden_size": 12,
        "graph_output_size": 8,
        "num_clusters": 2,
    }
    training = {"num_train_epochs": 30}

    def cells(self):
        return spots()

    def verb_settings(self, verb):
        return {"resolutions": "0.5,1", "n_subsamples": 1} if verb == "spatial" else {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose second stage was trained."""
    folder = tmp_path_factory.mktemp("transformerst") / "model"
    sclm_hf.fit(
        "transformerst",
        spots(),
        folder,
        n_neighbours=6,
        cluster_from_epoch=60,
        model_config=TestTransformerST.model_config | {"target_update_interval": 5},
        training={"num_train_epochs": 80, "use_cpu": True, "learning_rate": 5e-3},
    )
    return str(folder)


def test_domains_and_clusters_are_those_of_the_tissue(folder):
    from sklearn.metrics import adjusted_rand_score, homogeneity_score

    cells = spots()
    found = sclm_hf.spatial(cells, folder, label_key="cell_type", n_subsamples=1)
    assert homogeneity_score(cells.obs["cell_type"], found.obs["sclm_domain"]) > 0.8
    assert adjusted_rand_score(cells.obs["cell_type"], found.obs["sclm_domain_cluster"]) > 0.8
    record = found.uns["sclm_hf"]["sclm_domain"]
    methods = ["PCA + Leiden", "smoothed PCA + Leiden", "smoothed PCA + k-means", "TransformerST + Leiden"]
    assert list(record["scores"]["method"]) == methods
    assert found.obsm["X_sclm_domain"].shape == (64, 16)


def test_command(folder, tmp_path):
    spots().write_h5ad(tmp_path / "spots.h5ad")
    arguments = [str(tmp_path / "spots.h5ad"), str(tmp_path / "out.h5ad"), "--model", folder, "--n-subsamples", "1"]
    found = CliRunner().invoke(app, ["spatial", *arguments, "--label-key", "cell_type"])
    assert found.exit_code == 0, found.output
    assert "TransformerST + Leiden" in found.output


def test_columns_are_called_as_in_training_unless_others_are_named(folder):
    loaded = load_specialist(folder)
    cells = spots()
    cells.obsm["places"] = cells.obsm.pop("spatial")
    processor = replace(loaded.processor, spatial_key="places")
    few = {"resolutions": "0.5", "n_subsamples": 1}
    with pytest.raises(ConfigurationError, match="is a task-specific model of its own graph: leave it out"):
        sclm_hf.spatial(cells, loaded.model, processor, neighbourhood=4, **few)
    found = sclm_hf.spatial(cells, loaded.model, processor, **few)
    expected = sclm_hf.spatial(spots(), folder, **few)
    assert np.array_equal(found.obsm["X_sclm_domain"], expected.obsm["X_sclm_domain"])
    found = sclm_hf.spatial(cells, folder, spatial_key="places", **few)
    assert np.array_equal(found.obsm["X_sclm_domain"], expected.obsm["X_sclm_domain"])
    found = sclm_hf.spatial(spots(), loaded.model, processor, spatial_key="spatial", **few)
    assert np.array_equal(found.obsm["X_sclm_domain"], expected.obsm["X_sclm_domain"])


def test_the_command_draws_what_the_model_calls_its_columns(folder, tmp_path):
    loaded, cells = load_specialist(folder), spots()
    cells.obsm["places"], cells.obs["slice"] = cells.obsm.pop("spatial"), "one"
    cells.write_h5ad(tmp_path / "spots.h5ad")
    loaded.model.save_pretrained(tmp_path / "model")
    replace(loaded.processor, spatial_key="places", sample_key="slice").save_pretrained(tmp_path / "model")
    arguments = ["spatial", str(tmp_path / "spots.h5ad"), str(tmp_path / "out.h5ad"), "--n-subsamples", "1"]
    arguments += ["--model", str(tmp_path / "model"), "--plot", str(tmp_path / "tissue.png")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and (tmp_path / "tissue.png").stat().st_size, (done.output, done.exception)


def test_one_slice_needs_no_column_though_slices_were_trained_on(folder, tmp_path):
    loaded = load_specialist(folder)
    processor, few = replace(loaded.processor, sample_key="slice"), {"resolutions": "0.5", "n_subsamples": 1}
    found = sclm_hf.spatial(spots(), loaded.model, processor, sample_key=None, **few)
    expected = sclm_hf.spatial(spots(), folder, **few)
    assert np.array_equal(found.obsm["X_sclm_domain"], expected.obsm["X_sclm_domain"])
    with pytest.raises(ConfigurationError, match=r"no column 'slice' .*`adata\.obs\['slice'\] = 'one'`"):
        sclm_hf.spatial(spots(), loaded.model, processor, **few)
    loaded.model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    spots().write_h5ad(tmp_path / "spots.h5ad")
    arguments = ["spatial", str(tmp_path / "spots.h5ad"), str(tmp_path / "out.h5ad"), "--n-subsamples", "1"]
    arguments += ["--model", str(tmp_path / "model"), "--spatial-key", "spatial"]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 1 and "no column 'slice'" in refused.output
    done = CliRunner().invoke(app, [*arguments, "--sample-key", "", "--plot", str(tmp_path / "tissue.png")])
    assert done.exit_code == 0, (done.output, done.exception)


def test_spots_of_another_tissue_are_embedded_too(folder):
    found = sclm_hf.embed(spots(seed=1), folder)
    assert found.obsm["X_transformerst"].shape == (64, 16)


def test_the_second_stage_trains_clusters(folder):
    centres = load_specialist(folder).model.clusters.centres
    assert (centres[0] - centres[1]).norm() > 0.1


def test_pruned_graphs_lose_long_edges_and_those_between_types():
    cells = spots()
    whole = TransformerSTProcessor.fit(cells, n_neighbours=6, pruning="none")(cells)
    pruned = TransformerSTProcessor.fit(cells, n_neighbours=6)(cells)
    assert np.array_equal(whole["spatial_edges"], whole["pruned_edges"])
    counts = [one.shape[1] for one in (whole["spatial_edges"], pruned["spatial_edges"], pruned["pruned_edges"])]
    assert counts[0] > counts[1] > counts[2]
    types = cells.obs["cell_type"].to_numpy()
    assert (types[pruned["pruned_edges"][0]] == types[pruned["pruned_edges"][1]]).all()


def test_slices_have_no_edges_between_them():
    cells = spots()
    cells.obs["slice"] = np.where(np.arange(64) < 32, "one", "two")
    edges = TransformerSTProcessor.fit(cells, n_neighbours=6, sample_key="slice")(cells)["spatial_edges"]
    assert ((edges[0] < 32) == (edges[1] < 32)).all()
    with pytest.raises(ConfigurationError, match="'one' has 32 spots, which are too few for 40 neighbours"):
        TransformerSTProcessor.fit(cells, n_neighbours=40, sample_key="slice")


def test_edges_go_both_ways_once_and_to_no_spot_itself():
    coordinates = np.random.default_rng(0).random((30, 2))
    coordinates[5] = coordinates[6] = coordinates[7]
    numbers, distances = nearest_spots(coordinates, np.full(30, ""), 4)
    assert (numbers != np.arange(30)[:, None]).all() and (np.diff(distances, axis=1) >= 0).all()
    edges = edges_between(numbers, np.ones_like(numbers, bool))
    found = set(map(tuple, edges.T.tolist()))
    assert len(found) == edges.shape[1] and found == {(there, here) for here, there in found}
    none = edges_between(numbers, np.zeros_like(numbers, bool))
    assert none.shape == (2, 0)


def test_spots_without_edges_are_embedded(folder):
    loaded = load_specialist(folder)
    batch = loaded.processor(spots(), return_tensors="pt")
    batch["pruned_edges"] = torch.empty(2, 0, dtype=torch.int64)
    assert torch.isfinite(loaded.model(**batch).cell_embedding).all()


def test_the_image_is_a_third_coordinate():
    coordinates = np.random.default_rng(0).random((20, 2))
    colours = np.zeros((20, 3))
    colours[:10, 0] = 1
    placed = with_colours(coordinates, colours)
    assert placed.shape == (20, 3)
    assert placed[:, 2].std() == pytest.approx(coordinates.std(axis=0).max())
    with pytest.raises(ConfigurationError, match="the same at all spots"):
        with_colours(coordinates, np.ones((20, 3)))
    cells = spots()
    with pytest.raises(ConfigurationError, match="no colours of spots"):
        TransformerSTProcessor.fit(cells, n_neighbours=6, histology_key="image")
    cells.obsm["image"] = np.random.default_rng(0).random((64, 3))
    TransformerSTProcessor.fit(cells, n_neighbours=6, histology_key="image")
    cells.obsm["spatial"] = np.column_stack([cells.obsm["spatial"], np.arange(64.0)])
    with pytest.raises(ConfigurationError, match="three coordinates, and with `histology_key` the image is the third"):
        TransformerSTProcessor.fit(cells, n_neighbours=6, histology_key="image")


def test_between_spots_values_are_means_of_the_nearest(folder):
    values = np.arange(6.0)[:, None]
    coordinates = np.stack([np.arange(6.0), np.zeros(6)], axis=1)
    at_spot, between = interpolate(values, coordinates, np.array([[2.0, 0.0], [2.5, 0.0]]), n_nearest=2)[:, 0]
    # the next spot is 11 times as far
    assert at_spot == pytest.approx((2 + 1 / 121) / (1 + 1 / 121), abs=0.02) and between == pytest.approx(2.5)
    processor = load_specialist(folder).processor
    assert processor.between_spots(spots(), [[0.5, 0.5]]).shape == (1, len(processor.genes))


def test_k_means_finds_groups():
    points = torch.cat([torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) + 10 * one for one in range(3)])
    centres = k_means(points, 3, torch.Generator().manual_seed(0))
    nearest = torch.cdist(points, centres).argmin(dim=1).view(3, 20)
    assert (nearest == nearest[:, :1]).all() and len(nearest[:, 0].unique()) == 3


def test_bad_spots_and_settings_are_refused(tmp_path, folder):
    cells = spots()
    lost = cells.copy()
    lost.obsm["spatial"][3] = np.nan
    named = cells.copy()
    named.obsm["spatial"] = np.full((64, 2), "here", object)
    for refused, told in (
        (labelled_cells(), "The spots have no coordinates"),
        (lost, "1 spots have no finite place"),
        (named, r"`obsm\['spatial'\]` must hold numbers alone"),
        (cells[:5].copy(), "There are 5 spots, which are too few for 6 neighbours"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            sclm_hf.fit("transformerst", refused, tmp_path / "x", n_neighbours=6)
    with pytest.raises(ConfigurationError, match="`pruning` must be one of"):
        sclm_hf.fit("transformerst", cells, tmp_path / "x", pruning="some")
    with pytest.raises(ConfigurationError, match="`leiden_resolution` must be above 0, got -1"):
        sclm_hf.fit("transformerst", cells, tmp_path / "x", leiden_resolution=-1.0)
    for training in ({"num_train_epochs": 5}, {"max_steps": 5}):
        with pytest.raises(ConfigurationError, match=r"to below the number of epochs, 5, .*got 5"):
            sclm_hf.fit(
                "transformerst", cells, tmp_path / "x", n_neighbours=6, cluster_from_epoch=5, training=training
            )
    with pytest.raises(ConfigurationError, match="no column 'slice'"):
        sclm_hf.fit("transformerst", cells, tmp_path / "x", n_neighbours=6, sample_key="slice")
    with pytest.raises(ConfigurationError, match="either a `model`"):
        sclm_hf.spatial(cells, folder, use_rep="X_pca")


def test_more_clusters_than_spots_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="64 spots are too few for 70 clusters"):
        sclm_hf.fit(
            "transformerst",
            spots(),
            tmp_path / "x",
            n_neighbours=6,
            cluster_from_epoch=0,
            model_config=TestTransformerST.model_config | {"num_clusters": 70},
            training={"num_train_epochs": 1, "use_cpu": True},
        )
