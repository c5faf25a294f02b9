"""Classes explained by task-specific models that read a number for each gene."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import sclm_hf
from sclm_hf.cli.main import make_app
from sclm_hf.errors import ConfigurationError
from sclm_hf.opening.specialists import load_specialist
from sclm_hf.tasks.explanation.values import ValueReader

from ...specialists.common import labelled_cells


@pytest.fixture(scope="module")
def cells():
    return labelled_cells(60, 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cells):
    folder = tmp_path_factory.mktemp("tgem") / "model"
    sclm_hf.fit(
        "tgem",
        cells,
        folder,
        label_key="cell_type",
        model_config={"num_attention_heads": 2, "num_hidden_layers": 2},
        training={"num_train_epochs": 15, "learning_rate": 1e-2, "use_cpu": True},
    )
    return folder


@pytest.fixture(scope="module")
def table(folder, cells):
    return sclm_hf.explain(cells, str(folder), methods="integrated_gradients,knock_out,attention")


def test_genes_of_a_type_speak_for_it(table):
    assert list(table) == [
        "label",
        "method",
        "gene",
        "attribution",
        "attribution_low",
        "attribution_high",
        "n_cells",
    ]
    for (label, method), part in table.groupby(["label", "method"]):
        assert part["attribution"].is_monotonic_decreasing and part["gene"].is_unique
        if method == "integrated_gradients":
            own = part["gene"].str.removeprefix("GENE").astype(int) % 3 == int(label[-1])
            assert own.head(4).mean() >= 0.75


def test_scores_are_tested_beside_a_random_order(table):
    curves = {record["method"]: record for record in table.attrs["curves"]}
    assert list(curves)[:2] == ["random", "expression"]
    assert curves["integrated_gradients"]["deletion_gain"] > 0 < curves["knock_out"]["insertion_gain"]
    assert len(table.attrs["fractions"]) == len(curves["random"]["deletion_curve"])


def test_record_says_how_it_was_made(table, folder):
    record = json.loads(json.dumps(table.attrs))["explain"]
    assert record["family"] == "tgem" and record["model"] == str(folder)
    assert sum(record["n_cells"].values()) == 60
    entropy = np.array(record["attention_entropy"])
    assert entropy.shape == (2, 2) and (entropy > 0).all() and (entropy <= 1).all()


def test_gradients_add_up_to_the_change_of_the_log_odds(table, folder, cells):
    assert table.attrs["explain"]["integrated_gradients_gap"] < 0.05
    loaded = load_specialist(folder)
    reader, values = ValueReader(loaded.model, 7), loaded.processor(cells)["expression_values"]
    labels = np.zeros(60, np.int64)
    scores, gap = reader.integrated_gradients(values, labels, values.mean(axis=0), 64)
    again, _ = ValueReader(loaded.model, 60).integrated_gradients(values, labels, values.mean(axis=0), 64)
    assert gap < 0.05 and np.allclose(scores, again, atol=1e-5)


def test_shares_of_attention_add_up_to_one(folder, cells):
    loaded = load_specialist(folder)
    values = loaded.processor(cells)["expression_values"]
    scores, _ = ValueReader(loaded.model, 16).rollout(values, np.zeros(60, np.int64))
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-5)


def test_knock_outs_are_runs_without_the_gene(folder, cells):
    loaded = load_specialist(folder)
    values = loaded.processor(cells[:2].copy())["expression_values"]
    scored = np.zeros_like(values, bool)
    scored[1, 3] = True
    found = ValueReader(loaded.model, 16).knock_outs(values, np.array([0, 1]), scored)
    without = values.copy()
    without[1, 3] = 0
    one, other = (loaded.model(torch.from_numpy(each)).logits[1].softmax(-1)[1].logit() for each in (values, without))
    assert found[1, 3] == pytest.approx((one - other).item(), abs=1e-4) and np.count_nonzero(found) <= 1


def test_chosen_genes_cells_and_classes(folder, cells, tmp_path):
    file = tmp_path / "cells.h5ad"
    of_type = cells[cells.obs["cell_type"] == "type 1"].copy()
    found = sclm_hf.explain(
        of_type, str(folder), label="type 1", genes=["GENE1", "GENE4"], max_cells=5, per_cell=str(file)
    )
    assert set(found["label"]) == {"type 1"} and set(found["gene"]) == {"GENE1", "GENE4"}
    assert found.attrs["explain"]["n_cells"] == {"type 1": 5}
    scores = anndata.read_h5ad(file)
    assert scores.n_obs == 5 and set(scores.layers) == {"integrated_gradients"}
    assert np.allclose(
        scores.layers["integrated_gradients"].sum(axis=0).max(), (found["attribution"] * found["n_cells"]).max()
    )


def test_command_writes_the_table(folder, cells, tmp_path):
    source, output = tmp_path / "cells.h5ad", tmp_path / "genes.tsv"
    cells.write_h5ad(source)
    arguments = ["explain", str(source), str(output), "--model", str(folder), "--methods", "attention"]
    done = CliRunner().invoke(make_app(), arguments)
    assert done.exit_code == 0, done.output
    expected = sclm_hf.explain(cells, str(folder), methods="attention")
    assert pd.read_csv(output, sep="\t")["gene"].tolist() == expected["gene"].tolist()
    assert len(json.loads((tmp_path / "genes.json").read_text())["explain"]["attention_entropy"]) == 2


def test_what_does_not_fit_is_refused(folder, cells, tmp_path):
    for settings, message in (
        ({"label": "absent"}, "is no class of"),
        ({"genes": ["ABSENT"]}, r"1 of 1 \(ABSENT\) are not read by the model"),
        ({"methods": "guess"}, "`methods`"),
        ({"per_cell": str(tmp_path / "x.csv")}, "must be named"),
        ({"species": "mouse"}, "`species` means nothing for T-GEM"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            sclm_hf.explain(cells, str(folder), **settings)


def test_models_without_attention_between_genes_say_so(cells, tmp_path):
    sclm_hf.fit(
        "sctranssort",
        cells,
        tmp_path / "model",
        label_key="cell_type",
        model_config={
            "image_size": 8,
            "patch_size": 4,
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 8,
        },
        training={"num_train_epochs": 20, "use_cpu": True},
    )
    with pytest.raises(ConfigurationError, match="scTransSort has no attention between genes"):
        sclm_hf.explain(cells, str(tmp_path / "model"), methods="attention")
    found = sclm_hf.explain(cells, str(tmp_path / "model"))
    assert {record["method"] for record in found.attrs["curves"]} == {"random", "expression", "integrated_gradients"}
