"""scMoFormer: the numbers of the original, its graph, training, the verbs, and what it refuses."""

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import sclm_hf
from sclm_hf.errors import ConfigurationError, ExpressionError, GeneCoverageError, SclmWarning
from sclm_hf.opening.specialists import load_specialist
from sclm_hf.specialists.scmoformer.edges_scmoformer import edge_arrays, random_walk_positions, read_edges
from sclm_hf.specialists.scmoformer.processing_scmoformer import ScMoFormerProcessor

from ..common import SpecialistTester, close, golden_arrays, labelled_cells, open_golden


def test_numbers_of_the_original(tmp_path):
    recorded = {name: torch.from_numpy(one) for name, one in golden_arrays("scmoformer", "case_a").items()}
    model = open_golden("scmoformer", "case_a", tmp_path)
    output = model(
        expression=recorded["expression"],
        cell_features=recorded["cell_feat"],
        gene_features=recorded["gene_feat"],
        gene_positions=recorded["gene_pe"],
        protein_positions=recorded["protein_pe"],
        gene_edges=torch.stack([recorded["gene_head"], recorded["gene_tail"]]).long(),
        gene_weights=recorded["gene_weight"],
        protein_edges=torch.stack([recorded["ppi_head"], recorded["ppi_tail"]]).long(),
        protein_weights=recorded["ppi_weight"],
        gene_protein=recorded["gene_protein"].float(),
        labels=recorded["labels"],
        output_hidden_states=True,
    )
    for layer in range(3):
        for ours, theirs in (("cells", "cell"), ("genes", "gene"), ("proteins", "protein")):
            close(output[ours][layer + 1], recorded[f"layer{layer}_{theirs}"])
    close(output.logits, recorded["pred"])
    assert output.loss.item() == pytest.approx(float(recorded["mse"]), rel=5e-5)


def cite_cells(n_cells: int = 60, seed: int = 0) -> dict[str, AnnData]:
    """RNA and proteins of cells of three types; a protein is high in one type, and called like one of its genes."""
    rna = labelled_cells(n_cells, seed=seed)
    types = np.arange(n_cells) % 3
    counts = np.random.default_rng([seed, 2]).poisson(5 + 60.0 * (np.arange(6) % 3 == types[:, None]))
    protein = AnnData(counts.astype(np.float32))
    protein.obs_names, protein.var_names = rna.obs_names, [f"GENE{number}" for number in range(6)]
    return {"rna": rna, "protein": protein}


EDGES = pd.DataFrame({"source": ["GENE0", "GENE1"], "target": ["GENE3", "GENE4"], "weight": [0.5, 0.9]})


class TestScMoFormer(SpecialistTester):
    name = "scmoformer"
    settings = {"n_components": 8, "gene_table": EDGES, "protein_table": EDGES}
    model_config = {"hidden_size": 16, "num_attention_heads": 2, "graph_head_dim": 8, "num_hidden_layers": 2}
    training = {"num_train_epochs": 20}

    def cells(self):
        return cite_cells()

    def run_verb(self, verb, folder):
        if verb == "embed":
            return sclm_hf.embed(self.cells()["rna"], str(folder))
        return super().run_verb(verb, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scmoformer") / "model"
    sclm_hf.fit(
        "scmoformer",
        cite_cells(),
        folder,
        n_components=8,
        model_config=TestScMoFormer.model_config | {"hidden_dropout_prob": 0.1},
        training={"num_train_epochs": 60, "use_cpu": True, "learning_rate": 1e-2},
    )
    return str(folder)


def test_it_predicts_proteins_of_cells_that_it_has_not_seen(folder):
    other = cite_cells(seed=1)
    # both draw their genes' rates
    other["rna"].X = cite_cells(120)["rna"].X[60:].copy()
    found = sclm_hf.multimodal(other["rna"], model=folder, kind="protein")
    predicted = found.obsm["sclm_multimodal_predicted"]
    truth = np.log1p(other["protein"].X)
    truth -= truth.mean(axis=1, keepdims=True)
    assert np.corrcoef(predicted.ravel(), truth.ravel())[0, 1] > 0.8
    record = found.uns["sclm_hf"]["sclm_multimodal"]
    assert list(record["features"]) == [f"GENE{number}" for number in range(6)]
    assert record["n_edges"] == {"genes": 0, "proteins": 0, "genes with proteins": 6}
    assert found.obsm["sclm_multimodal_joint"].shape == (60, 16)


def test_cells_without_proteins_are_in_the_graph_only(tmp_path):
    cells = cite_cells()
    fewer = cells | {"protein": cells["protein"][:40].copy()}
    processor = ScMoFormerProcessor.fit(fewer, n_components=8)
    batch = processor.examples(fewer, 0).make(np.array([0]), 0)
    assert batch["expression"].shape[0] == 60 and (batch["labels"][:, 0] == -100).sum() == 20


def test_graphs_are_drawn_once_and_hold_every_cell():
    cells = cite_cells()
    processor = ScMoFormerProcessor.fit(cells, n_components=8, cells_per_graph=25)
    examples = processor.examples(cells, 0)
    graphs = [examples.make(np.array([number]), 5)["expression"] for number in range(examples.size)]
    assert [len(one) for one in graphs] == [20, 20, 20]
    assert np.concatenate(graphs).sum() == pytest.approx(processor(cells)["expression"].sum(), rel=1e-5)
    again = processor.examples(cells, 0).make(np.array([1]), 7)["expression"]
    assert np.array_equal(graphs[1], again)


def test_features_of_genes_are_sums_over_cells():
    cells = cite_cells()
    processor = ScMoFormerProcessor.fit(cells, n_components=8, scale_features=False)
    batch = processor(cells)
    summed = batch["expression"].T @ batch["cell_features"]
    np.testing.assert_allclose(batch["gene_features"], summed, rtol=0.02, atol=0.02 * np.abs(summed).max())
    scaled = ScMoFormerProcessor.fit(cells, n_components=8)(cells)
    for name in ("cell_features", "gene_features"):
        assert np.sqrt(np.square(scaled[name]).mean()) == pytest.approx(1, rel=1e-4)


def test_tables_make_edges_and_positions():
    cells = cite_cells()
    processor = ScMoFormerProcessor.fit(cells, n_components=8, gene_table=EDGES)
    batch = processor(cells)
    names = {(processor.genes[source], processor.genes[target]) for source, target in batch["gene_edges"].T}
    assert names == {("GENE0", "GENE3"), ("GENE3", "GENE0"), ("GENE1", "GENE4"), ("GENE4", "GENE1")}
    assert batch["protein_edges"].shape == (2, 0)
    # of two nodes that are joined with one another alone, a walk is back after every second step
    positions = batch["gene_positions"][processor.genes.index("GENE0")]
    assert positions.tolist() == [0, 1] * 5
    assert not random_walk_positions(*edge_arrays([]), 3, 4).any()


def test_a_gene_without_edges_and_a_cell_without_genes_of_the_model_stay_finite(folder):
    loaded = load_specialist(folder)
    batch = loaded.processor(cite_cells(), return_tensors="pt")
    batch["expression"][3] = 0
    batch["expression"][:, 2] = 0
    assert torch.isfinite(loaded.model(**batch).logits).all()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (pd.DataFrame({"from": ["a"], "target": ["b"]}), "it lacks 'source'"),
        (pd.DataFrame({"source": ["a"], "target": ["b"]}), "no edge between the names of the data"),
        (EDGES.assign(weight=-1.0), "finite numbers above 0"),
        ("absent.tsv", "there is no file `absent.tsv`"),
    ],
)
def test_tables_that_are_none_are_refused(table, told):
    with pytest.raises(ConfigurationError, match=told):
        ScMoFormerProcessor.fit(cite_cells(), n_components=8, gene_table=table)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x80"])
def test_files_that_are_no_tables_are_refused(content, tmp_path):
    (tmp_path / "edges.csv").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"`gene_table`: .*edges.csv` cannot be read as a table"):
        read_edges(tmp_path / "edges.csv", ["a", "b"], "gene_table")
    with pytest.raises(ConfigurationError, match="`gene_table`: there is no file"):
        read_edges(tmp_path, ["a", "b"], "gene_table")


@pytest.mark.parametrize("name", ["n_components", "n_positions", "cells_per_graph"])
def test_sizes_of_nothing_are_refused(name, tmp_path):
    with pytest.raises(ConfigurationError, match=f"`{name}` must be 1 or more, got 0"):
        sclm_hf.fit("scmoformer", cite_cells(), tmp_path / "x", **{name: 0})


def test_few_cells_are_told(folder):
    with pytest.warns(SclmWarning, match="where they are few, as these 49 are: give 50 or more"):
        sclm_hf.multimodal(cite_cells()["rna"][:49].copy(), model=folder)


def test_tables_are_read_from_files(tmp_path):
    EDGES.to_csv(tmp_path / "edges.tsv", sep="\t", index=False)
    cells = cite_cells()
    from_file = ScMoFormerProcessor.fit(cells, n_components=8, gene_table=str(tmp_path / "edges.tsv"))
    assert from_file.gene_edges == ScMoFormerProcessor.fit(cells, n_components=8, gene_table=EDGES).gene_edges


def test_genes_of_proteins_may_be_named():
    cells = cite_cells()
    cells["protein"].var_names = [f"P{number}" for number in range(6)]
    assert ScMoFormerProcessor.fit(cells, n_components=8).coding == []
    processor = ScMoFormerProcessor.fit(cells, n_components=8, protein_genes={"P2": "GENE7"})
    assert processor.coding == [[processor.genes.index("GENE7"), 2]]
    with pytest.raises(ConfigurationError, match="'X', which is none of the proteins"):
        ScMoFormerProcessor.fit(cells, n_components=8, protein_genes={"X": "GENE7"})
    with pytest.raises(ConfigurationError, match=r"a mapping of protein -> gene.*\{\"CD3\": .*; got 'x.csv'"):
        ScMoFormerProcessor.fit(cells, n_components=8, protein_genes="x.csv")


def test_bad_cells_are_refused(folder, tmp_path):
    cells = cite_cells()
    renamed = cells["protein"].copy()
    renamed.obs_names = [f"other{number}" for number in range(60)]
    with pytest.raises(ConfigurationError, match="60 of 60 cells with proteins have no RNA"):
        sclm_hf.fit("scmoformer", cells | {"protein": renamed}, tmp_path / "x")
    with pytest.raises(ConfigurationError, match="reads 'protein'"):
        sclm_hf.fit("scmoformer", {"rna": cells["rna"]}, tmp_path / "x")
    empty = cells["protein"].copy()
    empty.X[5] = 0
    with pytest.raises(ExpressionError, match="1 of 60 cells have no counts"):
        sclm_hf.fit("scmoformer", cells | {"protein": empty}, tmp_path / "x")
    with pytest.raises(ConfigurationError, match="fewer than 2 proteins"):
        sclm_hf.fit("scmoformer", cells | {"protein": cells["protein"][:, :1].copy()}, tmp_path / "x")
    others = cells["rna"].copy()
    others.var_names = [f"OTHER{number}" for number in range(others.n_vars)]
    with pytest.raises(GeneCoverageError, match="0 of the 40 genes"):
        sclm_hf.multimodal(others, model=folder)
