"""Networks of genes, from cells and models to tables."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import sclm_hf
from sclm_hf.cli.main import make_app
from sclm_hf.errors import ConfigurationError, ExpressionError, SclmWarning
from sclm_hf.files import sole_writer
from sclm_hf.registry.specialists import SPECIALISTS
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.tasks.grn import OF_A_MODEL, OF_CELLS
from sclm_hf.tasks.networks.evidence import EVIDENCE

from .tiny import GENES, make_cells, save_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("scgpt"))


@pytest.fixture(scope="module")
def cells():
    cells = make_cells(60)
    cells.obs["state"] = ["ill", "well", "ill"] * 20
    return cells


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    path = tmp_path_factory.mktemp("known") / "known.csv"
    drawn = np.random.default_rng(0).integers(0, 20, (40, 2))
    pd.DataFrame(drawn, columns=["tf", "target"]).map(lambda number: f"GENE{number}").to_csv(path, index=False)
    return path


def test_every_kind_of_evidence_has_a_name_that_says_whether_it_needs_a_model():
    specialists = {name for name, record in SPECIALISTS.items() if "grn" in record.verbs}
    assert {name for name, one in EVIDENCE.items() if one.needs_model} == {*OF_A_MODEL, *specialists}
    assert {name for name, one in EVIDENCE.items() if not one.needs_model} == set(OF_CELLS)


def test_edges_of_embeddings_are_cosines_between_named_genes(model, cells):
    edges = sclm_hf.grn(cells, model, genes=GENES[:12])
    vectors = sclm_hf.gene_embeddings(model, GENES[:12])
    unit = vectors.div(np.linalg.norm(vectors, axis=1), axis=0)
    cosines = unit @ unit.T
    assert len(edges) == 12 * 11 / 2 and list(edges["score"]) == sorted(edges["score"], reverse=True)
    for edge in edges.itertuples():
        assert edge.regulator != edge.target
        assert edge.score == pytest.approx(cosines.loc[edge.regulator, edge.target], abs=1e-5)
    assert edges.attrs["grn"]["family"] == "scgpt" and set(edges["evidence"]) == {"embeddings"}


def test_regulators_come_first_and_a_pair_of_them_once(model, cells, tmp_path):
    (tmp_path / "factors.txt").write_text("GENE3\nGENE50\n\nGENE4\nGENE3\n")
    edges = sclm_hf.grn(cells, model, genes=GENES[:5], regulators=tmp_path / "factors.txt")
    assert set(edges["regulator"]) == {"GENE3", "GENE4", "GENE50"} and set(edges["target"]) <= set(GENES[:5])
    pairs = {frozenset(pair) for pair in zip(edges["regulator"], edges["target"], strict=True)}
    # each regulator with all targets but itself, and GENE3 with GENE4 once
    assert len(pairs) == len(edges) == 4 + 4 + 5 - 1
    with pytest.warns(SclmWarning, match=r"Regulators left out: 1 of 2 genes \('MYC'\)"):
        sclm_hf.grn(cells, model, genes=GENES[:5], regulators=["GENE3", "MYC"])


def test_evidence_of_context_is_that_of_means_over_the_cells(model, cells):
    edges = sclm_hf.grn(cells, model, evidence="context", genes=GENES[:4])
    vectors = sclm_hf.gene_embeddings(model, GENES[:4], cells=cells)
    one, other = (vectors.loc[name] for name in edges.iloc[0][["regulator", "target"]])
    expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert edges["score"][0] == pytest.approx(expected, abs=1e-5)


def test_correlation_needs_no_model_and_gives_signs(cells):
    copied = cells.copy()
    dense = copied.X.toarray()
    dense[:, 7] = dense[:, 8]
    copied.X = dense
    edges = sclm_hf.grn(copied, evidence="pearson", genes=GENES[:30])
    strongest = edges.iloc[0]
    assert {strongest["regulator"], strongest["target"]} == {"GENE7", "GENE8"} and strongest["sign"] == 1
    assert edges["sign"].isna().any() and set(edges["sign"].dropna()) <= {-1, 1}
    assert sclm_hf.grn(copied, evidence="pearson", genes=GENES[:30], n_edges=3).equals(edges[:3])


def test_each_condition_has_a_network_or_its_difference_from_a_reference(cells):
    both = sclm_hf.grn(cells, evidence="spearman", condition_key="state", n_genes=10)
    alone = sclm_hf.grn(cells[cells.obs["state"] == "ill"], evidence="spearman", genes=sorted(set(both["regulator"])))
    assert both.attrs["grn"]["n_cells"] == {"ill": 40, "well": 20}

    def by_pair(edges, condition=None):
        edges = edges if condition is None else edges[edges["condition"] == condition]
        return {frozenset((edge.regulator, edge.target)): edge.score for edge in edges.itertuples()}

    ill, well = by_pair(both, "ill"), by_pair(both, "well")
    assert all(ill[pair] == pytest.approx(score, abs=1e-5) for pair, score in by_pair(alone).items() if pair in ill)
    against = sclm_hf.grn(cells, evidence="spearman", condition_key="state", reference="well", n_genes=10)
    assert set(against["condition"]) == {"ill"}
    for pair, score in by_pair(against).items():
        assert score == pytest.approx(ill[pair] - well[pair], abs=1e-5)


def test_scores_put_baselines_first_and_do_not_depend_on_how_many_edges_are_kept(model, cells, known):
    how = {"genes": GENES[:20], "network": known}
    scores = sclm_hf.grn(cells, model, n_edges=1, **how).attrs["scores"]
    assert [one["method"] for one in scores] == ["random", "pearson", "spearman", "embeddings"]
    assert scores == sclm_hf.grn(cells, model, **how).attrs["scores"]
    for one in scores:
        for metric in ("auprc_ratio", "early_precision_ratio", "auroc"):
            assert one[f"{metric}_low"] <= one[metric] <= one[f"{metric}_high"]
    json.dumps(scores)


def test_a_network_of_one_regulator_has_no_interval_and_json_that_can_be_read(cells, tmp_path):
    cells.write_h5ad(tmp_path / "in.h5ad")
    (tmp_path / "one.csv").write_text("tf,target\nGENE1,GENE2\nGENE1,GENE3\nOTHER,GENE4\n")
    arguments = ["grn", str(tmp_path / "in.h5ad"), str(tmp_path / "out.tsv"), "--evidence", "pearson"]
    arguments += ["--network", str(tmp_path / "one.csv"), "--genes", ",".join(GENES[:20])]
    with pytest.warns(SclmWarning, match="2 edges of 1 regulator "):
        shown = CliRunner().invoke(make_app(), arguments)
    assert shown.exit_code == 0 and "(no interval)" in shown.output, shown.output
    written = json.loads((tmp_path / "out.json").read_text(), parse_constant=pytest.fail)
    assert written["scores"][0]["auroc_low"] is None and written["scores"][0]["auroc"] > 0


def test_few_cells_are_drawn_by_the_seed(cells):
    how = {"evidence": "pearson", "n_genes": 10, "max_cells": 30}
    first = sclm_hf.grn(cells, **how)
    assert first.equals(sclm_hf.grn(cells, **how)) and first.attrs["grn"]["n_cells"] == {"None": 30}
    assert not first.equals(sclm_hf.grn(cells, **how, seed=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evidence": "belief"}, "must be one of embeddings, context"),
        ({"model": None}, r"asks a model: name one with `model` \(`--model`\)"),
        ({"baselines": "pearson,context"}, "got 'context'"),
        ({"evidence": "pearson", "reference": "ill"}, "name their column"),
        ({"condition_key": "state"}, "same under all conditions"),
        ({"evidence": "context", "condition_key": "stat"}, "no column 'stat'"),
        ({"evidence": "context", "condition_key": "gap"}, "1 cells have no condition"),
        ({"evidence": "context", "condition_key": "same"}, "one condition only, 'a'"),
        ({"evidence": "context", "condition_key": "state", "reference": "cured"}, "'cured' is no condition"),
        ({"evidence": "context", "condition_key": "rare"}, "'b' with 3 cells: a network needs at least 10"),
        ({"genes": "GENE1, NOTHING"}, r"1 of 2 genes \('NOTHING'\) is not in the data\. Leave"),
        (
            {"genes": ["NOTHING", "GENE1", "GENE19"]},
            r"`--genes`\).*'NOTHING'.*; 1 of 3 genes \('GENE19'\) is expressed in f",
        ),
        ({"genes": ["GENE1", "UNKNOWN1"]}, r"\('UNKNOWN1'\) is in the data but not read by the model"),
        ({"genes": []}, "names no genes"),
        ({"regulators": ["MYC"]}, r"'MYC'\) is not in .*Names must be those of the data, such as 'GENE0'"),
        ({"regulators": "absent.txt"}, "there is no file `absent.txt`"),
        ({"network": "absent.csv"}, "There is no network"),
    ],
)
def test_what_cannot_be_inferred_is_refused_before_any_work(model, cells, settings, message):
    cells = cells.copy()
    counts = cells.X.tolil()
    counts[3:, GENES.index("GENE19")] = 0
    cells.X = counts.tocsr()
    cells.obs["gap"], cells.obs["same"], cells.obs["rare"] = [None, *"ab" * 29, "a"], "a", list("a" * 57 + "bbb")
    with pytest.raises(ConfigurationError, match=message):
        sclm_hf.grn(cells, **{"model": model, **settings})


def test_a_network_of_other_names_and_unsound_cells_are_refused(model, cells, tmp_path):
    (tmp_path / "ids.csv").write_text("tf,target\nENSG1,ENSG2\n")
    with pytest.raises(ConfigurationError, match="knows 0 of"):
        sclm_hf.grn(cells, model, network=tmp_path / "ids.csv")
    unsound = cells.copy()
    unsound.X = unsound.X.toarray() - 1
    with pytest.raises(ExpressionError, match="negative"):
        sclm_hf.grn(unsound, evidence="pearson")
    doubled = cells.copy()
    doubled.var_names = ["GENE1", *doubled.var_names[1:]]
    with pytest.raises(ConfigurationError, match="name of 2 genes of the data"):
        sclm_hf.grn(doubled, evidence="pearson", genes=["GENE1", "GENE2"])
    with pytest.raises(ConfigurationError, match="needs at least 10"):
        sclm_hf.grn(cells[:5], evidence="pearson")
    alike = cells.copy()
    alike.X = alike.X[np.zeros(60, int)]
    with pytest.raises(ExpressionError, match="All 60 cells have the same expression"):
        sclm_hf.grn(alike, evidence="pearson")
    with pytest.raises(ExpressionError, match="Of the condition 'ill' all 40"):
        sclm_hf.grn(alike, evidence="pearson", condition_key="state")


@pytest.mark.parametrize("suffix", [".tsv", ".parquet"])
def test_the_command_writes_what_the_function_gives(model, cells, known, tmp_path, suffix):
    cells.write_h5ad(tmp_path / "in.h5ad")
    output = tmp_path / f"edges{suffix}"
    arguments = ["grn", str(tmp_path / "in.h5ad"), str(output), "--model", model, "--network", str(known)]
    more = ["--programs", str(tmp_path / "programs.tsv"), "--plot", str(tmp_path / "network.png")]
    done = CliRunner().invoke(make_app(), [*arguments, "--genes", ",".join(GENES[:20]), *more])
    assert done.exit_code == 0, done.output
    assert "AUPRC ratio" in done.output and done.output.index("pearson") < done.output.index("embeddings: ")
    expected = sclm_hf.grn(anndata.read_h5ad(tmp_path / "in.h5ad"), model, network=known, genes=GENES[:20])
    table = pd.read_csv(output, sep="\t") if suffix == ".tsv" else pd.read_parquet(output)
    assert table["target"].tolist() == expected["target"].tolist()
    np.testing.assert_allclose(table["score"], expected["score"], rtol=1e-5)
    assert set(pd.read_csv(tmp_path / "programs.tsv", sep="\t")["gene"]) <= set(GENES[:20])
    assert (tmp_path / "network.png").stat().st_size
    written = json.loads((tmp_path / "edges.json").read_text())
    assert written["scores"] == expected.attrs["scores"] and written["grn"]["model"] == model
    again = CliRunner().invoke(make_app(), arguments)
    assert again.exit_code == 1 and "--overwrite" in again.output


@pytest.mark.parametrize(
    ("output", "more"),
    [
        ("known.tsv", ["--network", "known.tsv"]),
        ("edges.tsv", ["--programs", "edges.tsv"]),
        ("edges.tsv", ["--plot", "edges.json"]),
        ("edges.tsv", ["--regulators", "names.txt", "--programs", "names.txt"]),
    ],
)
def test_no_file_is_written_over_another_of_the_same_run(tmp_path, monkeypatch, output, more):
    monkeypatch.chdir(tmp_path)
    arguments = ["grn", "in.h5ad", output, "--model", "never looked at", "--overwrite", *more]
    done = CliRunner().invoke(make_app(), arguments)
    assert done.exit_code == 1 and "named for something else too" in done.output


@pytest.mark.parametrize("evidence", ["pearson", "embeddings"])
def test_a_pair_is_listed_alike_whatever_the_order_of_columns(model, cells, evidence):
    tables = [sclm_hf.grn(one, model, evidence=evidence, n_genes=8) for one in (cells, cells[:, ::-1].copy())]
    assert tables[0].equals(tables[1])


def test_genes_of_equal_variance_are_chosen_alike_whatever_the_order_of_columns(cells):
    alike = anndata.AnnData(cells.X[:, [0, 0, 0, 0, 1, 2]], cells.obs)
    alike.var_names = ["D", "C", "B", "A", *cells.var_names[1:3]]
    tables = [sclm_hf.grn(one, evidence="pearson", n_genes=2) for one in (alike, alike[:, ::-1].copy())]
    assert tables[0].equals(tables[1])


def test_what_is_no_gene_is_in_no_network(cells):
    cells = cells.copy()
    cells.var_names = ["ERCC-00002", "GFP", "CD3_TotalSeqB", *cells.var_names[3:]]
    cells.var["feature_types"] = (
        ["Gene Expression"] * 5 + ["Antibody Capture"] + ["Gene Expression"] * (cells.n_vars - 6)
    )
    edges = sclm_hf.grn(cells, evidence="pearson")
    named = {*edges["regulator"], *edges["target"]}
    assert named and named <= {*cells.var_names[3:5], *cells.var_names[6:]}


def test_two_networks_are_not_made_into_one_file(cells, tmp_path):
    cells.write_h5ad(tmp_path / "in.h5ad")
    arguments = ["grn", str(tmp_path / "in.h5ad"), str(tmp_path / "edges.tsv"), "--evidence", "pearson"]
    with sole_writer(tmp_path / "edges.tsv"):
        done = CliRunner().invoke(make_app(), arguments)
    assert done.exit_code == 1 and "is being written by process" in done.output
    assert not (tmp_path / "edges.tsv").exists()


def test_a_table_is_no_result_for_run_files_and_other_suffixes_are_refused(model, cells, tmp_path):
    with pytest.raises(ConfigurationError, match="gives a table"):
        run_files("grn", tmp_path / "in.h5ad", tmp_path / "out.h5ad", model)
    done = CliRunner().invoke(make_app(), ["grn", "in.h5ad", str(tmp_path / "edges.xlsx"), "--model", model])
    assert done.exit_code == 1 and ".tsv" in done.output
