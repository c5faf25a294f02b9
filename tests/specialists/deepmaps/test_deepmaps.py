"""DeepMAPS: the numbers of the original, training, verbs, and what it refuses."""

import numpy as np
import pytest
import torch
from anndata import AnnData, read_h5ad
from scipy.sparse import csr_matrix
from typer.testing import CliRunner

import sclm_hf
from sclm_hf.cli.main import app
from sclm_hf.errors import ConfigurationError, ExpressionError
from sclm_hf.modeling.common import heterogeneous_graph
from sclm_hf.opening.specialists import load_specialist
from sclm_hf.registry.specialists import SPECIALISTS
from sclm_hf.specialists.deepmaps.configuration_deepmaps import DeepMAPSConfig
from sclm_hf.specialists.deepmaps.modeling_deepmaps import DeepMAPSModel
from sclm_hf.specialists.deepmaps.processing_deepmaps import DeepMAPSProcessor

from ..common import (
    SpecialistTester,
    close,
    gene_positions,
    golden_arrays,
    labelled_cells,
    open_golden,
    paired_cells,
)


@pytest.mark.parametrize("graph", ["train", "infer"])
@pytest.mark.parametrize("case", ["case_a", "case_b"])
def test_numbers_of_the_original(case, graph, tmp_path):
    recorded = {name: torch.from_numpy(values) for name, values in golden_arrays("deepmaps", case).items()}
    model = open_golden("deepmaps", case, tmp_path)
    values = recorded["adjacency"]
    genes, cells = values, values.T
    if case == "case_a":
        genes, cells = recorded["node_feature"].split(list(values.shape))
    output = model(
        cell_inputs=cells,
        gene_inputs=genes,
        edge_index=recorded[f"edge_index_{graph}"],
        edge_type=recorded[f"edge_type_{graph}"],
        labels=values,
    )
    close(torch.cat([output.gene_embedding, output.cell_embedding]), recorded[f"node_rep_{graph}"])
    for number, logits in enumerate(output.attentions):
        close(logits, recorded[f"layer{number}_att_logits_{graph}"])
    # the code of codes gives the first layer's, that of raw inputs the last one's
    close(output.attentions[0 if case == "case_a" else -1], recorded[f"att_logits_{graph}"])
    assert output.loss.item() == pytest.approx(recorded[f"kl_{graph}"].item(), rel=5e-5)
    if case == "case_b":
        close(output.decoded_genes, recorded[f"decoded_gene_{graph}"])
        close(output.decoded_cells, recorded[f"decoded_cell_{graph}"])


class TestDeepMAPS(SpecialistTester):
    name = "deepmaps"
    settings = {"n_parts": 2, "n_seeds": 20, "decoding": "before", "n_decoding": 0}
    model_config = {"encoder_sizes": [12, 8], "hidden_size": 8, "num_attention_heads": 2}
    training = {"num_train_epochs": 8, "learning_rate": 3e-3}
    verbs = ("embed", "grn")

    def cells(self):
        return labelled_cells()


class TestOfProteins(SpecialistTester):
    name = "deepmaps"
    settings = {"decoding": "before", "n_decoding": 0, "least_share": 0.0}
    model_config = TestDeepMAPS.model_config
    training = TestDeepMAPS.training
    verbs = ("multimodal",)

    def cells(self):
        proteins = labelled_cells(n_genes=6)
        return {"rna": labelled_cells(), "protein": proteins}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deepmaps") / "model"
    TestDeepMAPS().fit(folder)
    return str(folder)


def test_results_follow_the_names_of_cells(folder):
    cells = labelled_cells()
    order = np.random.default_rng(0).permutation(60)
    one, two = (sclm_hf.embed(some, folder).obsm["X_deepmaps"] for some in (cells, cells[order].copy()))
    assert np.array_equal(one[order], two)


def test_graph_holds_every_value_both_ways():
    processor = DeepMAPSProcessor.fit(labelled_cells())
    batch = processor(labelled_cells())
    n_values = int((batch["gene_inputs"] > 0).sum())
    assert batch["edge_index"].shape == (2, 2 * n_values)
    genes, cells = batch["edge_index"][:, batch["edge_type"] == 0]
    assert (batch["gene_inputs"][genes, cells - len(processor.genes)] > 0).all()
    processor.one_way_results = True
    assert set(processor(labelled_cells())["edge_type"]) == {0}


def test_inputs_may_be_of_a_size_of_their_own():
    processor = DeepMAPSProcessor.fit(labelled_cells(), n_components=5)
    batch = processor(labelled_cells())
    assert batch["cell_inputs"].shape == (60, 5) and batch["gene_inputs"].shape == (40, 5)
    sizes = {name: processor.config_settings()[name] for name in ("cell_input_size", "gene_input_size")}
    assert set(sizes.values()) == {5}
    with pytest.raises(ConfigurationError, match="`n_components` must be 1 to 39"):
        DeepMAPSProcessor.fit(labelled_cells(), n_components=40)(labelled_cells())


def test_parts_are_drawn_once_and_are_connected():
    processor = DeepMAPSProcessor.fit(
        labelled_cells(), n_parts=3, n_seeds=4, depth=2, width=3, self_edges=True, decoding="alternate"
    )
    examples = processor.examples(labelled_cells(), 0)
    one, two = (examples.make(np.array([1]), epoch) for epoch in (0, 2))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    n_genes, n_cells = one["labels"].shape
    assert 4 <= n_genes <= 4 + 2 * 3 and 3 <= n_cells <= 2 * 3
    assert (one["edge_type"] == 2).sum() == n_genes + n_cells
    assert not one["decode"] and examples.make(np.array([1]), 1)["decode"]
    with pytest.raises(ConfigurationError, match="takes one graph"):
        examples.make(np.array([0, 1]), 0)


def test_edges_of_no_relation_are_left_out_unless_they_are_to_count():
    states = {}
    for unmatched in ("drop", "zero_logit"):
        config = DeepMAPSConfig(
            gene_input_size=3, cell_input_size=2, encoder_sizes=[], decodes_inputs=False, hidden_size=8,
            num_attention_heads=2, unmatched_edges=unmatched,
        )  # fmt: skip
        torch.manual_seed(0)
        model = DeepMAPSModel(config).eval()
        inputs = {"gene_inputs": torch.ones(2, 3), "cell_inputs": torch.eye(3, 2)}
        edges, types = torch.tensor([[0, 1, 0], [2, 2, 3]]), torch.tensor([0, 0, 0])
        closed = torch.cat([edges, torch.arange(5).expand(2, -1)], dim=1), torch.tensor([0, 0, 0, *[2] * 5])
        states[unmatched] = [
            model(edge_index=edge_index, edge_type=edge_type, **inputs).cell_embedding
            for edge_index, edge_type in ((edges, types), closed)
        ]
    torch.testing.assert_close(*states["drop"])
    torch.testing.assert_close(states["zero_logit"][0], states["drop"][0])
    assert not torch.allclose(*states["zero_logit"])


def test_many_edges_are_looked_at_in_groups(folder, monkeypatch):
    whole = sclm_hf.embed(labelled_cells(), folder).obsm["X_deepmaps"]
    monkeypatch.setattr(heterogeneous_graph, "EDGES_AT_ONCE", 100)
    np.testing.assert_allclose(sclm_hf.embed(labelled_cells(), folder).obsm["X_deepmaps"], whole, atol=1e-5)


def test_active_genes_of_types(folder):
    loaded = load_specialist(folder)
    found = loaded.processor.active_genes(loaded.model, labelled_cells(), "cell_type", n_deviations=0.5)
    assert list(found.columns) == ["condition", "gene", "score", "n_cells"]
    assert set(found["condition"]) == {"type 0", "type 1", "type 2"} and found["score"].between(0, 2).all()
    with pytest.raises(ConfigurationError, match="no column 'absent'"):
        loaded.processor.active_genes(loaded.model, labelled_cells(), "absent")
    assert loaded.processor.gene_embedding(loaded.model, labelled_cells()).shape == (40, 8)


def test_networks_are_of_genes_that_are_embedded_alike(folder):
    cells = labelled_cells()
    edges = sclm_hf.grn(cells, folder, regulators=["GENE0", "GENE1"], genes=["GENE1", "GENE2"])
    assert set(zip(edges["regulator"], edges["target"], strict=True)) == {
        ("GENE0", "GENE1"),
        ("GENE0", "GENE2"),
        ("GENE1", "GENE2"),
    }
    loaded = load_specialist(folder)
    vectors = loaded.processor.gene_embedding(loaded.model, cells).loc[["GENE0", "GENE1"]].to_numpy()
    score = edges.set_index(["regulator", "target"])["score"][("GENE0", "GENE1")]
    assert score == pytest.approx(abs(np.corrcoef(vectors)[0, 1]), abs=1e-5)


def test_networks_and_embeddings_by_a_model_of_two_modalities_are_refused(tmp_path):
    cells = TestOfProteins().cells()
    TestOfProteins().fit(tmp_path / "model")
    with pytest.raises(ConfigurationError, match=r"trained on rna and protein, and `embed` .*: use `multimodal`"):
        sclm_hf.embed(cells["rna"], str(tmp_path / "model"))
    processor = load_specialist(tmp_path / "model").processor
    with pytest.raises(ConfigurationError, match="reads rna and protein of the same cells"):
        processor(cells["rna"])
    with pytest.raises(ConfigurationError, match="trained on rna and protein, and `grn` reads RNA alone"):
        sclm_hf.grn(cells["rna"], str(tmp_path / "model"))


def test_two_modalities_are_joined_by_the_command(tmp_path):
    TestOfProteins().fit(tmp_path / "model")
    for name, cells in TestOfProteins().cells().items():
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    files = [str(tmp_path / f"{name}.h5ad") for name in ("rna", "protein", "out")]
    done = CliRunner().invoke(app, ["multimodal", *files, "--model", str(tmp_path / "model")])
    assert done.exit_code == 0 and "Joined both modalities with DeepMAPS" in done.output, done.output
    assert read_h5ad(files[2]).obsm["sclm_multimodal_joint"].shape == (60, 8)


def test_genes_named_like_proteins_are_refused():
    cells = TestOfProteins().cells()
    cells["rna"].var_names = ["p_one", *cells["rna"].var_names[1:]]
    with pytest.raises(ConfigurationError, match="The gene 'p_one' is named like a protein"):
        DeepMAPSProcessor.fit(cells, least_share=0.0)
    assert "p_one" in DeepMAPSProcessor.fit(cells["rna"], least_share=0.0).genes
    processor = DeepMAPSProcessor(genes=["p_one", "two", "p_three"], other="protein")
    with pytest.raises(ValueError, match="`genes` must name proteins, with the prefix 'p_', after all genes"):
        processor.check_learnt()


def test_open_chromatin_adds_to_the_genes_it_is_near():
    cells = paired_cells()
    processor = DeepMAPSProcessor.fit(cells, gene_positions=gene_positions(cells["rna"]), least_share=0.0)
    assert processor.modalities == ("rna", "atac")
    alone = DeepMAPSProcessor.fit(cells["rna"], least_share=0.0)
    assert (processor.values(cells) > 0).sum() > (alone.values(cells["rna"]) > 0).sum()
    with pytest.raises(ConfigurationError, match="joined to genes by their distance"):
        DeepMAPSProcessor.fit(cells)


def test_other_cells_are_refused(folder):
    cells = labelled_cells()
    with pytest.raises(ConfigurationError, match=r"the 60 cells that it was trained on.*50 of these are missing"):
        sclm_hf.embed(cells[:10].copy(), folder)
    cells.obs_names = [f"other{number}" for number in range(60)]
    with pytest.raises(ConfigurationError, match="60 others, such as 'other0'"):
        sclm_hf.embed(cells, folder)
    cells.obs_names = ["cell0"] * 60
    with pytest.raises(ConfigurationError, match="have the same name"):
        sclm_hf.embed(cells, folder)


def test_other_modalities_are_refused(folder):
    cells = paired_cells()
    for other in (cells["atac"], None):
        with pytest.raises(ConfigurationError, match="trained on RNA alone: use `embed`"):
            sclm_hf.multimodal(cells["rna"], other, folder)
    with pytest.raises(ConfigurationError, match="one of 'protein' and 'atac'"):
        DeepMAPSProcessor.fit({"rna": cells["rna"], "sound": cells["atac"]})
    other = cells["atac"].copy()
    other.obs_names = [f"other{number}" for number in range(60)]
    with pytest.raises(ConfigurationError, match="no cell in common"):
        DeepMAPSProcessor.fit({"rna": cells["rna"], "atac": other}, gene_positions=gene_positions(cells["rna"]))


def test_cells_without_edges_are_refused(folder):
    cells = labelled_cells()
    counts = cells.X.toarray()
    counts[3] = 0
    cells = AnnData(csr_matrix(np.column_stack([counts, np.ones(60, np.float32)])), cells.obs)
    cells.var_names = [*labelled_cells().var_names, "OTHER"]
    with pytest.raises(ExpressionError, match=r"1 of 60 cells have none of the 40 genes.*cell3"):
        sclm_hf.embed(cells, folder)
    with pytest.raises(ConfigurationError, match="0 of 40 genes are seen in 150% of the cells"):
        DeepMAPSProcessor.fit(labelled_cells(), least_share=1.5)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigurationError, match="`decoding` must be"):
        DeepMAPSProcessor(decoding="never")
    with pytest.raises(ConfigurationError, match="`depth` must be 1 or more"):
        DeepMAPSProcessor(depth=0)
    with pytest.raises(ConfigurationError, match="must be a multiple of"):
        sclm_hf.fit("deepmaps", labelled_cells(), "never", model_config={"hidden_size": 9})


def test_inputs_of_other_sizes_are_refused():
    model = DeepMAPSModel(DeepMAPSConfig(**SPECIALISTS["deepmaps"].tiny))
    inputs = {"gene_inputs": torch.ones(2, 6), "cell_inputs": torch.ones(3, 8)}
    edges = torch.tensor([[0, 1], [2, 7]])
    with pytest.raises(ConfigurationError, match="lead to nodes 0 to 4"):
        model(edge_index=edges, edge_type=torch.zeros(2, dtype=torch.int64), **inputs)
    with pytest.raises(ConfigurationError, match=r"`edge_type` must be \(2,\)"):
        model(edge_index=edges.clamp(max=4), edge_type=torch.zeros(3, dtype=torch.int64), **inputs)
    with pytest.raises(ConfigurationError, match=r"`cell_inputs` must be \(cells, 8\)"):
        model(edge_index=edges, edge_type=edges[0], **inputs | {"cell_inputs": torch.ones(3, 2)})
