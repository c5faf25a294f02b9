"""MarsGT: the numbers of the original, training, verbs, and what it refuses."""

import numpy as np
import pytest
import torch
from anndata import AnnData, read_h5ad
from scipy.sparse import csr_matrix
from sklearn.metrics import adjusted_rand_score
from torch.nn import functional as F
from typer.testing import CliRunner

import sclm_hf
from sclm_hf.cli.main import app
from sclm_hf.errors import ConfigurationError, ExpressionError, SclmWarning
from sclm_hf.opening.specialists import load_specialist
from sclm_hf.registry.specialists import SPECIALISTS
from sclm_hf.specialists.marsgt.clusters_marsgt import numbered_by_size
from sclm_hf.specialists.marsgt.configuration_marsgt import MarsGTConfig
from sclm_hf.specialists.marsgt.losses_marsgt import distribution_loss, pair_weights
from sclm_hf.specialists.marsgt.modeling_marsgt import MarsGTModel
from sclm_hf.specialists.marsgt.processing_marsgt import MarsGTProcessor
from sclm_hf.specialists.marsgt.sampling_marsgt import draw_features
from sclm_hf.tasks.files.file_to_file import run_files

from ..common import SpecialistTester, close, gene_positions, golden_arrays, open_golden, paired_cells


@pytest.fixture(scope="module")
def recorded():
    return {name: torch.from_numpy(values) for name, values in golden_arrays("marsgt", "case_a").items()}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return open_golden("marsgt", "case_a", tmp_path_factory.mktemp("golden"))


def run(model, recorded, graph, **labels):
    return model(
        cell_inputs=recorded["rna"].T,
        gene_inputs=recorded["rna"],
        peak_inputs=recorded["atac"],
        edge_index=recorded[f"edge_index_{graph}"],
        edge_type=recorded[f"edge_type_{graph}"],
        **labels,
    )


@pytest.mark.parametrize("graph", ["train", "pred"])
def test_states_of_the_original(graph, original, recorded):
    output = run(original, recorded, graph)
    found = torch.cat([output.cell_embedding, output.gene_embedding, output.peak_embedding])
    close(found, recorded[f"node_rep_{graph}"])
    for number, logits in enumerate(output.attentions):
        close(logits, recorded[f"layer{number}_att_logits_{graph}"])


def test_losses_of_the_original(original, recorded):
    output = run(original, recorded, "train")
    cells, genes, peaks = output.cell_embedding, output.gene_embedding, output.peak_embedding
    rna, atac, potential = (recorded[name] for name in ("rna", "atac", "rp"))
    smoothed = F.cross_entropy(cells, recorded["labels"], label_smoothing=0.1)
    of_rna, of_atac = distribution_loss(genes @ cells.T, rna), distribution_loss(peaks @ cells.T, atac)
    of_pairs = original.pair_loss(cells, genes, peaks, rna, atac, potential)
    parts = {"label_smoothing_ce": smoothed, "kl_rna": of_rna, "kl_atac": of_atac, "kl_pair_misaligned": of_pairs}
    for name, found in parts.items():
        assert found.item() == pytest.approx(recorded[name].item(), rel=5e-5), name
    given = {"expression": rna, "accessibility": atac, "potential": potential}
    whole = run(original, recorded, "train", labels=recorded["labels"], **given).loss
    assert whole.item() == pytest.approx(sum(recorded[name].item() for name in parts), rel=5e-5)


def test_pairs_of_the_original(original, recorded):
    output = run(original, recorded, "train")
    rna, atac, potential = (recorded[name] for name in ("rna", "atac", "rp"))
    pairs = torch.cartesian_prod(torch.arange(7), torch.arange(8)).T.flip(0)
    close(original.pair_states(output.gene_embedding, output.peak_embedding, pairs), recorded["pair_net_out"])
    close(pair_weights(rna, atac, torch.ones_like(potential), pairs), recorded["gene_times_peak_pairs"])
    for name in ("aligned", "misaligned"):
        weights = pair_weights(rna, atac, potential, pairs, aligned=name == "aligned")
        close(weights @ output.cell_embedding, recorded[f"pair_target_{name}"])


class TestMarsGT(SpecialistTester):
    name = "marsgt"
    settings = {"gene_positions": gene_positions(paired_cells()["rna"]), "n_first_epochs": 0, "resolution": 1.0}
    model_config = {"encoder_size": 12, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    training = {"num_train_epochs": 4, "per_device_train_batch_size": 30, "learning_rate": 3e-3}

    def cells(self):
        return paired_cells()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marsgt") / "model"
    TestMarsGT().fit(folder)
    return str(folder)


def test_what_the_verb_adds(folder):
    cells = paired_cells()
    order = np.random.default_rng(0).permutation(60)
    found = sclm_hf.cluster(cells["rna"], model=folder, other=cells["atac"])
    shuffled = sclm_hf.cluster(cells["rna"][order].copy(), model=folder, other=cells["atac"])
    sizes = found.obs["sclm_cluster"].value_counts().loc[found.obs["sclm_cluster"].cat.categories]
    assert sizes.is_monotonic_decreasing
    assert found.obs["sclm_cluster"].iloc[order].equals(shuffled.obs["sclm_cluster"])
    assert found.obs["sclm_cluster_is_rare"].dtype == bool and found.obsm["X_marsgt"].shape == (60, 16)
    record = found.uns["sclm_hf"]["sclm_cluster"]
    assert record["shares"].sum() == pytest.approx(1) and record["method"] == "MarsGT"


def test_files(folder, tmp_path):
    cells = paired_cells()
    for name, one in cells.items():
        one.write_h5ad(tmp_path / f"{name}.h5ad")
    run_files("cluster", tmp_path / "rna.h5ad", tmp_path / "out.h5ad", folder, other=tmp_path / "atac.h5ad")
    found = read_h5ad(tmp_path / "out.h5ad").obs["sclm_cluster"].astype(str)
    expected = sclm_hf.cluster(cells["rna"], model=folder, other=cells["atac"]).obs["sclm_cluster"]
    assert (found == expected.astype(str)).all()


def test_command(folder, tmp_path):
    files = {name: str(tmp_path / f"{name}.h5ad") for name in ("rna", "atac", "out")}
    for name, cells in paired_cells().items():
        cells.write_h5ad(files[name])
    arguments = ["cluster", files["rna"], files["out"], "--model", folder, "--other", files["atac"]]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    sizes = read_h5ad(files["out"]).obs["sclm_cluster"].value_counts()
    assert f"{sizes.iloc[0]}  0" in done.output and "of the clusters are rare" in done.output
    done = CliRunner().invoke(app, [*arguments, "--json", "--overwrite"])
    assert done.exit_code == 0 and '"n_rare"' in done.output


def test_a_single_initial_cluster_is_told():
    cells = paired_cells()
    with pytest.warns(SclmWarning, match="in one initial cluster"):
        MarsGTProcessor.fit(cells, **TestMarsGT.settings | {"resolution": 1e-4, "n_neighbours": 59})


@pytest.mark.slow
def test_it_learns_the_initial_clusters(tmp_path):
    cells = paired_cells()
    training = TestMarsGT.training | {"num_train_epochs": 12, "learning_rate": 1e-2, "use_cpu": True}
    sclm_hf.fit(
        "marsgt", cells, tmp_path / "model", model_config=TestMarsGT.model_config, training=training,
        **TestMarsGT.settings | {"n_first_epochs": 12},
    )  # fmt: skip
    found = sclm_hf.cluster(cells["rna"], model=str(tmp_path / "model"), other=cells["atac"])
    initial = load_specialist(tmp_path / "model").processor.clusters
    assert len(set(initial)) > 1 and adjusted_rand_score(found.obs["sclm_cluster"], initial) > 0.9


def test_stages_and_draws():
    cells = paired_cells()
    processor = MarsGTProcessor.fit(cells, **TestMarsGT.settings | {"n_first_epochs": 2, "n_drawn": 3})
    examples = processor.examples(cells, 0)
    rows = np.array([4, 1, 7])
    first, again, second = (examples.make(rows, epoch) for epoch in (0, 0, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert "expression" not in first
    n_genes, n_peaks = len(second["gene_inputs"]), len(second["peak_inputs"])
    assert second["potential"].shape == (n_genes, n_peaks) and 3 <= n_genes <= 9
    rna = cells["rna"].X.toarray()
    assert np.array_equal(second["cell_inputs"], rna[rows])
    assert (second["expression"] > 0).sum() == (second["edge_type"] == 0).sum() == (second["edge_type"] == 1).sum()
    assert set(second["edge_type"]) == {0, 1, 2, 3}


def test_inputs_may_be_of_a_size_of_their_own(tmp_path):
    cells = paired_cells()
    processor = MarsGTProcessor.fit(cells, **TestMarsGT.settings | {"n_components": 5})
    assert processor.config_settings() == {"cell_input_size": 5, "feature_input_size": 5}
    batch, again = processor(cells), processor(cells)
    assert [batch[f"{name}_inputs"].shape for name in ("cell", "gene", "peak")] == [(60, 5), (40, 5), (60, 5)]
    assert np.array_equal(batch["cell_inputs"], again["cell_inputs"])
    processor.n_components = 40
    with pytest.raises(ConfigurationError, match="`n_components` must be 1 to 39"):
        processor(cells)


def test_features_are_drawn_by_their_counts():
    counts = csr_matrix(np.array([[0, 9, 99, 2, 4]], np.float32))
    rows = np.zeros(1, np.int64)
    found = [draw_features(counts, rows, [np.random.default_rng(seed)], 1, 5)[0] for seed in range(2000)]
    shares = np.bincount(found, minlength=5) / 2000
    np.testing.assert_allclose(shares, np.array([0, 10, 100, 1, 1]) / 112, atol=0.03)
    own = [np.random.default_rng(0)]
    assert draw_features(counts, rows, own, 5).tolist() == [1, 2, 3, 4]
    every = csr_matrix(np.ones((2, 3), np.float32))
    assert draw_features(every, np.array([1]), own, 5, leaves_out_own_number=True).tolist() == [0, 2]


def test_published_results_differ_and_say_the_same_twice(folder):
    cells = paired_cells()
    loaded = load_specialist(folder)
    whole = loaded.processor(cells)
    loaded.processor.one_way_results = True
    one_way = loaded.processor(cells)
    assert set(whole["edge_type"]) == {0, 1, 2, 3} and set(one_way["edge_type"]) == {0, 1}
    assert (one_way["edge_index"][1] < 60).all()
    loaded.model.config.dropout_at_prediction = True
    one, two = (loaded.processor.results("cluster", loaded.model, cells)["obsm"]["X_marsgt"] for _ in range(2))
    loaded.model.config.dropout_at_prediction = False
    assert np.array_equal(one, two)
    assert not np.allclose(one, loaded.processor.results("cluster", loaded.model, cells)["obsm"]["X_marsgt"])


def test_regulation_of_clusters(folder):
    cells = paired_cells()
    loaded = load_specialist(folder)
    found = loaded.processor.regulation(loaded.model, cells)
    assert list(found.columns) == ["condition", "regulator", "target", "score"] and (found["score"] > 0).all()
    first = found.iloc[0]
    mask = (sclm_hf.cluster(cells["rna"], model=folder, other=cells["atac"]).obs["sclm_cluster"] == "0").to_numpy()
    rna, atac = (cells[name][mask, first[end]].X.mean() for name, end in (("rna", "target"), ("atac", "regulator")))
    start, middle = 1000 * cells["rna"].var_names.get_loc(first["target"]), int(first["regulator"].split("-")[1]) + 250
    assert first["score"] == pytest.approx(rna * atac * 2 ** (-abs(start - middle) / 1e4), rel=1e-5)


def test_clusters_are_numbered_by_size():
    assert numbered_by_size(np.array([7, 3, 3, 9, 3, 9])).tolist() == [2, 0, 0, 1, 0, 1]


def test_other_inputs_are_refused(folder):
    cells = paired_cells()
    positions = gene_positions(cells["rna"])
    with pytest.raises(ConfigurationError, match="joined to genes by their distance"):
        MarsGTProcessor.fit(cells)
    with pytest.raises(ConfigurationError, match="reads rna and atac of the same cells"):
        MarsGTProcessor.fit(cells["rna"], gene_positions=positions)
    with pytest.raises(ConfigurationError, match=r"reads rna and atac of the same cells.*`cluster RNA OUTPUT --other"):
        sclm_hf.cluster(cells["rna"], folder)
    with pytest.raises(ConfigurationError, match="50 of these are missing"):
        sclm_hf.cluster(cells["rna"][:10].copy(), model=folder, other=cells["atac"][:10].copy())
    with pytest.raises(ConfigurationError, match="give a lower `least_share`"):
        MarsGTProcessor.fit(cells, gene_positions=positions, least_share=1.5)
    for setting, told in (
        ({"resolution": 0.0}, "`resolution` must be above 0, got 0.0"),
        ({"resolution": -1.0}, "`resolution` must be above 0, got -1.0"),
        ({"n_neighbours": 1}, "`n_neighbours` must be 2 or more, got 1"),
        ({"n_drawn": 0}, "`n_drawn` must be 1 or more, got 0"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            sclm_hf.fit("marsgt", cells, "nowhere", gene_positions=positions, **setting)
    renamed = cells["atac"].copy()
    renamed.var_names = [f"peak{number}" for number in range(renamed.n_vars)]
    with pytest.raises(ConfigurationError, match="'peak0' names no peak"):
        MarsGTProcessor.fit({"rna": cells["rna"], "atac": renamed}, gene_positions=positions)


def test_cells_without_peaks_are_refused(folder):
    cells = paired_cells()
    counts = cells["atac"].X.toarray()
    counts[3] = 0
    atac = AnnData(csr_matrix(np.column_stack([counts, np.ones(60, np.float32)])), cells["atac"].obs)
    atac.var_names = [*cells["atac"].var_names, "chr9:1-2"]
    with pytest.raises(ExpressionError, match=r"1 of 60 cells have none of the 60 peaks.*cell3"):
        sclm_hf.cluster(cells["rna"], model=folder, other=atac)


def test_two_modalities_are_for_models_of_both(folder):
    cells = paired_cells()
    with pytest.raises(ConfigurationError, match="read by a `model`"):
        sclm_hf.cluster(cells["rna"], use_rep="X_pca", other=cells["atac"])


def test_pairs_that_are_linked_are_learnt_from(recorded):
    config = MarsGTConfig(**SPECIALISTS["marsgt"].tiny)
    model = MarsGTModel(config).eval()
    output = run(model, recorded, "train")
    states = output.cell_embedding, output.gene_embedding, output.peak_embedding
    rna, atac = recorded["rna"], recorded["atac"]
    assert model.pair_loss(*states, rna, atac, torch.zeros(8, 7)).item() == 0
    every = model.pair_loss(*states, rna, atac, torch.ones(8, 7)).item()
    config.pairs = "all"
    assert model.pair_loss(*states, rna, atac, torch.ones(8, 7)).item() == pytest.approx(every)
    with pytest.raises(Exception, match="all pairs are learnt from"):
        MarsGTConfig(pair_target="misaligned").validate()


def test_gradients_are_the_same_in_every_run(original, recorded):
    gradients = []
    for _ in range(4):
        original.zero_grad()
        output = run(original, recorded, "train", labels=recorded["labels"])
        output.loss.backward()
        gradients.append([one.grad.clone() for one in original.parameters() if one.grad is not None])
    for others in gradients[1:]:
        assert all(torch.equal(one, other) for one, other in zip(gradients[0], others, strict=True))
