"""Genes that speak for classes, from cells and classifiers to tables and curves."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import sclm_hf
from sclm_hf import ScGPTForSequenceClassification, ScGPTModel
from sclm_hf.cli.main import make_app
from sclm_hf.errors import CheckpointError, ConfigurationError, SclmWarning
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.tasks.explain import METHODS

from .tiny import GENES, make_cells, make_model, make_processor, save_checkpoint

ALL = ",".join(METHODS)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("scgpt"), ScGPTForSequenceClassification)


@pytest.fixture(scope="module")
def cells():
    return make_cells(12)


@pytest.fixture(scope="module")
def table(model, cells):
    return sclm_hf.explain(cells, model, methods=ALL)


def test_a_gene_has_a_mean_its_interval_and_its_number_of_cells_for_each_class_and_method(table, cells, model):
    assert list(table) == [
        "label",
        "method",
        "gene",
        "attribution",
        "attribution_low",
        "attribution_high",
        "n_cells",
    ]
    known = table.dropna()
    assert (known["n_cells"] >= 3).all() and (known["attribution_low"] <= known["attribution_high"]).all()
    predicted = sclm_hf.annotate(cells, model).obs["sclm_prediction"].value_counts()
    assert table.attrs["explain"]["n_cells"] == {name: number for name, number in predicted.items() if number}
    for _, part in table.groupby(["label", "method"]):
        assert part["attribution"].is_monotonic_decreasing and part["gene"].is_unique


def test_a_class_that_is_given_is_explained_in_all_cells(model, cells):
    table = sclm_hf.explain(cells, model, label="NK")
    assert set(table["label"]) == {"NK"} and table.attrs["explain"]["n_cells"] == {"NK": 12}
    assert set(table["method"]) == {"integrated_gradients"}


def test_curves_put_baselines_first_and_gains_are_over_the_random_order(table):
    records = table.attrs["curves"]
    assert [one["method"] for one in records] == ["random", "expression", *METHODS]
    for one in records:
        assert one["deletion_gain"] == pytest.approx(records[0]["deletion"] - one["deletion"])
        assert one["insertion_gain"] == pytest.approx(one["insertion"] - records[0]["insertion"])
        assert one["deletion_low"] <= one["deletion"] <= one["deletion_high"]
        # nothing deleted, and all put in, is the same cell
        assert one["deletion_curve"][0] == pytest.approx(one["insertion_curve"][-1])
    json.dumps(table.attrs)


def test_genes_by_knock_out_lower_the_class_sooner_than_random_ones(table):
    by_method = {one["method"]: one for one in table.attrs["curves"]}
    assert by_method["knock_out"]["deletion_gain"] > 0 and by_method["knock_out"]["insertion_gain"] > 0


def test_named_genes_alone_are_scored_as_among_all(table, model, cells, tmp_path):
    named = sclm_hf.explain(cells, model, methods=ALL, genes=",".join(GENES[:60]))
    (tmp_path / "genes.txt").write_text("\n".join(GENES[:60]))
    for file in (tmp_path / "genes.txt", str(tmp_path / "genes.txt")):
        assert sclm_hf.explain(cells, model, methods=ALL, genes=file).equals(named)
    assert set(named["gene"]) == set(GENES[:60])
    key = ["label", "method", "gene"]
    both = named.merge(table, on=key, suffixes=("", "_of_all"))
    assert len(both) == len(named)
    np.testing.assert_allclose(both["attribution"], both["attribution_of_all"], atol=1e-5)


def test_batches_and_the_order_of_cells_leave_the_table_as_it_is(table, model, cells):
    order = np.random.default_rng(0).permutation(cells.n_obs)
    again = sclm_hf.explain(cells[order], model, methods=ALL, batch_size=3)
    key = ["label", "method", "gene"]
    both = again.merge(table, on=key, suffixes=("", "_before"))
    assert len(both) == len(again) == len(table)
    np.testing.assert_allclose(both["attribution"], both["attribution_before"], atol=1e-5)
    for one, other in zip(again.attrs["curves"], table.attrs["curves"], strict=True):
        assert one["deletion"] == pytest.approx(other["deletion"], abs=1e-5)


def test_few_cells_of_each_class_are_drawn_by_the_seed(model, cells):
    first = sclm_hf.explain(cells, model, max_cells=2)
    assert set(first.attrs["explain"]["n_cells"].values()) <= {1, 2}
    pd.testing.assert_frame_equal(first, sclm_hf.explain(cells, model, max_cells=2))


def test_scores_of_each_cell_are_written_beside(model, cells, tmp_path):
    path = tmp_path / "cells.h5ad"
    table = sclm_hf.explain(cells, model, methods=ALL, label="NK", per_cell=path)
    written = anndata.read_h5ad(path)
    assert list(written.obs_names) == list(cells.obs_names) and set(written.layers) == set(METHODS)
    for method in METHODS:
        means = table[table["method"] == method].set_index("gene")
        scores = written.layers[method].tocoo()
        sums = np.bincount(scores.col, scores.data, minlength=written.n_vars)
        expected = means.loc[written.var_names, "attribution"] * means.loc[written.var_names, "n_cells"]
        np.testing.assert_allclose(sums, expected, atol=1e-4)
    sclm_hf.explain(cells, model, methods="knock_out", per_cell=path)
    assert set(anndata.read_h5ad(path).layers) == {"knock_out"}
    with pytest.raises(ConfigurationError, match=r"must be named `….h5ad`"):
        sclm_hf.explain(cells, model, per_cell=tmp_path / "cells.csv")


def test_columns_of_one_gene_are_one_gene_named_after_the_first(table, model, cells):
    empty = cells[:, ["GENE7"]].copy()
    empty.X = empty.X * 0
    with pytest.warns(UserWarning, match="Variable names are not unique"):
        doubled = anndata.concat([cells, empty], axis=1, merge="first")
    assert sclm_hf.explain(doubled, model, methods=ALL)["gene"].tolist() == table["gene"].tolist()


@pytest.mark.parametrize("family", ["geneformer", "iseeek", "scfoundation", "tgpt"])
def test_families_whose_tokens_are_genes_serve_all_methods(family, tmp_path):
    folder = make_tiny_checkpoint(family, tmp_path / family, genes=GENES, task="annotate")
    table = sclm_hf.explain(make_cells(3), folder, methods=ALL, max_cells=2, n_steps=200)
    assert set(table["method"]) == set(METHODS) and np.isfinite(table["attribution"]).all()
    assert table.attrs["explain"]["integrated_gradients_gap"] < 0.05


@pytest.mark.parametrize("family", ["cellplm", "linear", "scbert", "uce"])
def test_families_whose_cells_lose_no_gene_are_refused_before_cells_are_read(family, tmp_path, monkeypatch):
    folder = make_tiny_checkpoint(family, tmp_path / family, genes=GENES, task="annotate")
    monkeypatch.setattr("sclm_hf.tasks.explanation.explaining.prepare_cells", None)
    with pytest.raises(CheckpointError, match=r"cannot be explained gene by gene; those of geneformer.* can"):
        sclm_hf.explain(make_cells(3), folder)


def test_a_model_without_classes_is_refused(tmp_path):
    with pytest.raises(CheckpointError):
        sclm_hf.explain(make_cells(3), save_checkpoint(tmp_path / "model", ScGPTModel))
    with pytest.raises(CheckpointError, match="needs a model with a classification head"):
        sclm_hf.explain(make_cells(3), make_model(), make_processor())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {0: "B cell"}}, "one class only, 'B cell'"),
        ({"problem_type": "regression"}, "trained for `regression`"),
    ],
)
def test_one_class_or_numbers_are_refused(changes, message):
    model = make_model(ScGPTForSequenceClassification)
    for name, value in changes.items():
        setattr(model.config, name, value)
    with pytest.raises(ConfigurationError, match=message):
        sclm_hf.explain(make_cells(3), model, make_processor())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"methods": "attention,belief"}, ConfigurationError, "are of integrated_gradients, .*got 'belief'"),
        ({"methods": ","}, ConfigurationError, "names none"),
        ({"label": "T cell"}, ConfigurationError, r"'T cell' is no class of .*it knows B cell, .*NK"),
        ({"genes": ["GENE1", "MYC"]}, ConfigurationError, r"1 of 2 \(MYC\) are not in the data"),
        ({"genes": "UNKNOWN1"}, ConfigurationError, r"1 of 1 \(UNKNOWN1\)"),
        ({"genes": []}, ConfigurationError, "names no genes"),
        ({"n_steps": 0}, ConfigurationError, "at least 1"),
    ],
)
def test_what_cannot_be_explained_is_refused(model, cells, settings, error, message):
    with pytest.raises(error, match=message):
        sclm_hf.explain(cells, model, **settings)


def test_cells_without_a_named_gene_are_left_out_and_reported(model, cells):
    cells = cells.copy()
    dense = cells.X.toarray()
    dense[:, 7] = 0
    cells.X = dense
    with pytest.raises(ConfigurationError, match="None of 12 cells has two genes"):
        sclm_hf.explain(cells, model, genes=["GENE7"])
    dense[0, 7] = 1
    cells.X = dense
    with pytest.warns(SclmWarning, match="11 cells of 12 left out"):
        assert sclm_hf.explain(cells, model, genes=["GENE7"])["n_cells"].tolist() == [1]


def test_partners_that_label_cells_too_are_told_of(tmp_path, cells):
    folder = tmp_path / "model"
    save_checkpoint(folder, ScGPTForSequenceClassification)
    (folder / "partners.json").write_text(json.dumps({"weights": {"model": 0.5, "linear": 0.5}}))
    with pytest.warns(SclmWarning, match="explained is the model without them"):
        sclm_hf.explain(cells, folder, max_cells=1)
    (folder / "partners.json").write_text(json.dumps({"weights": {"model": 0, "linear": 1}}))
    with pytest.raises(CheckpointError, match="by its partners alone"):
        sclm_hf.explain(cells, folder)


def test_a_model_in_memory_stays_as_it_was(cells):
    model = make_model(ScGPTForSequenceClassification)
    model.classifier.requires_grad_(False)
    before = model.config._attn_implementation, [weight.requires_grad for weight in model.parameters()]
    sclm_hf.explain(cells, model, make_processor(), methods="integrated_gradients,attention")
    assert before == (model.config._attn_implementation, [weight.requires_grad for weight in model.parameters()])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(weight.grad is None for weight in model.parameters()) and torch.is_grad_enabled()


def test_the_command_writes_what_the_function_gives(model, cells, tmp_path):
    cells.write_h5ad(tmp_path / "in.h5ad")
    output = tmp_path / "genes.tsv"
    arguments = ["explain", str(tmp_path / "in.h5ad"), str(output), "--model", model, "--methods", "knock_out"]
    more = ["--plot", str(tmp_path / "curves.png"), "--per-cell", str(tmp_path / "cells.h5ad")]
    done = CliRunner().invoke(make_app(), [*arguments, *more])
    assert done.exit_code == 0, done.output
    assert done.output.index("random: deletion") < done.output.index("knock_out: deletion")
    expected = sclm_hf.explain(cells, model, methods="knock_out")
    written = pd.read_csv(output, sep="\t")
    assert written["gene"].tolist() == expected["gene"].tolist()
    np.testing.assert_allclose(written["attribution"], expected["attribution"], rtol=1e-5)
    assert json.loads((tmp_path / "genes.json").read_text())["curves"] == expected.attrs["curves"]
    assert (tmp_path / "curves.png").stat().st_size and (tmp_path / "cells.h5ad").stat().st_size
    again = CliRunner().invoke(make_app(), arguments)
    assert again.exit_code == 1 and "--overwrite" in again.output
    before = (tmp_path / "cells.h5ad").stat().st_mtime_ns
    refused = CliRunner().invoke(make_app(), [*arguments[:2], str(tmp_path / "new.tsv"), *arguments[3:], *more[2:]])
    assert refused.exit_code == 1 and "--overwrite" in refused.output and not (tmp_path / "new.tsv").exists()
    replaced = CliRunner().invoke(make_app(), [*arguments, "--overwrite", *more])
    assert replaced.exit_code == 0, replaced.output
    assert (tmp_path / "cells.h5ad").stat().st_mtime_ns > before and not list(tmp_path.glob(".*"))
    told = CliRunner().invoke(make_app(), [*arguments, "--overwrite", "--json"])
    assert json.loads(told.stdout.splitlines()[-1])["explain"]["n_cells"] == expected.attrs["explain"]["n_cells"]
    unknown = CliRunner().invoke(make_app(), [*arguments, "--overwrite", "--plot", str(tmp_path / "curves.doc")])
    assert unknown.exit_code == 1 and "must be named as an image is" in unknown.output
