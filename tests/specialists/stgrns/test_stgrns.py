"""STGRNS: the numbers of the original, known pairs, training, networks, and what it refuses."""

import numpy as np
import pandas
import pytest
import torch
from anndata import AnnData
from typer.testing import CliRunner

import sclm_hf
from sclm_hf.cli.main import make_app
from sclm_hf.errors import ConfigurationError, SclmWarning
from sclm_hf.specialists.stgrns.processing_stgrns import STGRNSProcessor

from ..common import SpecialistTester, close, golden_arrays, labelled_cells, open_golden

SMALL = {"window_size": 10, "min_share": 0.0}
NETWORK = pandas.DataFrame(
    [(f"GENE{number}", f"GENE{number + step}") for number in range(4) for step in (3, 6, 9, 12)],
    columns=["regulator", "target"],
)
"""Genes of a type regulate others of it."""


@pytest.fixture(scope="module")
def network_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("network") / "known.csv"
    NETWORK.to_csv(file, index=False)
    return file


def fit(folder, cells=None, **settings):
    training = {"num_train_epochs": 30, "use_cpu": True}
    settings = {
        "network": NETWORK,
        "model_config": {"intermediate_size": 16},
        "training": training,
        **SMALL,
        **settings,
    }
    return sclm_hf.fit("stgrns", labelled_cells() if cells is None else cells, folder, **settings)


@pytest.mark.parametrize("case", ["case_a", "case_b"])
def test_numbers_of_the_original(case, tmp_path):
    recorded = golden_arrays("stgrns", case)
    model = open_golden("stgrns", case, tmp_path, dtype=torch.float64)
    pair = [torch.from_numpy(recorded[name]) for name in ("log_expr_tf", "log_expr_target")]
    assert torch.equal(model.model.windows(*pair), torch.from_numpy(recorded["windows"]))
    output = model(*pair, labels=torch.from_numpy(recorded["labels"]))
    # the weights are kept in float32
    close(output.logits, recorded["logits"], 1e-6)
    close(output.logits.softmax(-1)[:, 1], recorded["score"], 1e-6)
    assert output.loss.item() == pytest.approx(float(recorded["loss"]), rel=1e-6)


class TestSTGRNS(SpecialistTester):
    name = "stgrns"
    settings = {"network": NETWORK, **SMALL}
    model_config = {"intermediate_size": 24}
    training = {"num_train_epochs": 30, "per_device_train_batch_size": 16}

    def cells(self):
        return labelled_cells()

    def processor_arguments(self):
        return self.cells(), {"regulators": ["GENE0", "GENE1"], "targets": ["GENE3", "GENE4"]}


def regulated_cells(n_cells: int = 100, n_regulators: int = 60, n_each: int = 6) -> tuple[AnnData, pandas.DataFrame]:
    """Counts where each regulator and its targets rise together over the cells, and what regulates what."""
    random = np.random.default_rng(0)
    activity = random.gamma(0.5, 2.0, (n_cells, n_regulators))
    rates = np.concatenate([activity, np.repeat(activity, n_each, axis=1)], axis=1)
    regulators = [f"TF{number}" for number in range(n_regulators)]
    targets = [f"T{number}_{place}" for number in range(n_regulators) for place in range(n_each)]
    cells = AnnData(random.poisson(5 * rates + 0.5).astype(np.float32))
    cells.obs_names, cells.var_names = [f"c{row}" for row in range(n_cells)], regulators + targets
    pairs = [(f"TF{name[1:].split('_')[0]}", name) for name in targets]
    return cells, pandas.DataFrame(pairs, columns=["regulator", "target"])


@pytest.mark.slow
def test_it_learns_what_regulates_and_is_scored_on_held_out_regulators_alone(tmp_path):
    cells, network = regulated_cells()
    network.to_csv(tmp_path / "known.csv", index=False)
    fit(
        tmp_path / "model",
        cells,
        network=str(tmp_path / "known.csv"),
        window_size=20,
        split="regulators",
        training={"num_train_epochs": 30, "learning_rate": 1e-3, "use_cpu": True},
        model_config={},
    )
    edges = sclm_hf.grn(
        cells,
        str(tmp_path / "model"),
        regulators=[f"TF{number}" for number in range(60)],
        genes=[name for name in cells.var_names if not name.startswith("TF")],
        network=str(tmp_path / "known.csv"),
    )
    assert list(edges.columns) == ["regulator", "target", "sign", "score", "evidence"]
    assert set(edges["evidence"]) == {"stgrns"} and edges["score"].between(0, 1).all()
    scores = {record["method"]: record for record in edges.attrs["scores"]}
    assert list(scores) == ["random", "pearson", "spearman", "stgrns"]
    # twelve of the sixty regulators are held out, of 360 targets each
    assert scores["stgrns"]["n_pairs"] == 12 * 360 and scores["stgrns"]["n_edges"] == 12 * 6
    assert scores["stgrns"]["auroc"] > 0.75
    assert edges.attrs["grn"]["family"] == "stgrns"


def test_pairs_are_balanced_within_regulators_or_all(network_file):
    cells = labelled_cells()
    balanced = STGRNSProcessor.fit(cells, network=str(network_file), **SMALL)
    assert balanced.regulators == [f"GENE{number}" for number in range(4)]
    chosen, labels = balanced.pairs_to_learn(np.random.default_rng(0))
    rows = chosen // len(balanced.genes)
    assert labels.sum() == len(NETWORK) and len(labels) == 2 * len(NETWORK)
    assert np.array_equal(np.bincount(rows[labels == 1]), np.bincount(rows[labels == 0]))
    everything = STGRNSProcessor.fit(cells, network=NETWORK, pairs="all", **SMALL)
    n_selves = len(set(everything.regulators) & set(everything.genes))
    assert everything.examples(cells, 0).size == 4 * len(everything.genes) - n_selves
    assert STGRNSProcessor.fit(cells, network=NETWORK, pairs="all", self_pairs=True, **SMALL).examples(
        cells, 0
    ).size == 4 * len(everything.genes)


@pytest.mark.parametrize("split", ["regulators", "pairs"])
def test_what_is_held_out_is_not_learnt(split):
    processor = STGRNSProcessor.fit(
        labelled_cells(), network=NETWORK, split=split, test_share=0.25, pairs="all", **SMALL
    )
    chosen, labels = processor.pairs_to_learn(np.random.default_rng(0))
    assert not set(chosen) & set(processor.held_out)
    assert labels.sum() == 12
    seen = processor.seen_pairs(["ELSEWHERE", *processor.regulators], processor.genes)
    assert not seen[0].any()
    assert set(np.flatnonzero(~seen[1:].ravel())) == set(processor.held_out)


def test_cells_stand_in_the_order_of_a_column(tmp_path):
    cells = labelled_cells()
    cells.obs["time"] = np.arange(60)[::-1]
    ordered = STGRNSProcessor.fit(cells, network=NETWORK, order_key="time", **SMALL)
    as_in_file = STGRNSProcessor.fit(cells, network=NETWORK, **SMALL)
    pair = {"regulators": ["GENE0"], "targets": ["GENE3"]}
    assert np.array_equal(
        ordered(cells, **pair)["regulator_values"], as_in_file(cells, **pair)["regulator_values"][:, ::-1]
    )
    cells.obs["time"] = "soon"
    with pytest.raises(ConfigurationError, match="must hold a number for each cell"):
        ordered(cells, **pair)
    with pytest.raises(ConfigurationError, match="'age' is no column"):
        fit(tmp_path / "x", order_key="age")


@pytest.mark.filterwarnings("ignore:The network .* has 3 edges of 2 regulators")
def test_files_to_network(tmp_path, network_file):
    cells, known = tmp_path / "cells.h5ad", str(network_file)
    labelled_cells().write_h5ad(cells)
    settings = ["--set", f"network={known}", "--set", "window_size=10", "--set", "min_share=0", "--set", "split=pairs"]
    model, edges = str(tmp_path / "model"), str(tmp_path / "edges.tsv")
    run = CliRunner().invoke(make_app(), ["fit", "stgrns", str(cells), "-o", model, "--epochs", "1", *settings])
    assert run.exit_code == 0, run.output
    given = ["grn", str(cells), edges, "--model", model, "--network", known, "--regulators", "GENE0,GENE1,GENE2"]
    run = CliRunner().invoke(make_app(), given)
    assert run.exit_code == 0, run.output
    assert "stgrns: AUPRC ratio" in run.output
    assert set(pandas.read_csv(edges, sep="\t")["evidence"]) == {"stgrns"}


def test_what_cannot_be_learnt_from_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="60 cells do not fill one window of 100"):
        fit(tmp_path / "x", window_size=100)
    with pytest.raises(ConfigurationError, match="STGRNS learns from known pairs"):
        fit(tmp_path / "x", network=None)
    with pytest.raises(ConfigurationError, match="There is no network `absent"):
        fit(tmp_path / "x", network="absent.csv")
    with pytest.raises(ConfigurationError, match="the columns `regulator` and `target`; got the columns a, target"):
        fit(tmp_path / "x", network=NETWORK.rename(columns={"regulator": "a"}))
    with pytest.raises(ConfigurationError, match="the columns `regulator` and `target`; got list"):
        fit(tmp_path / "x", network=[("GENE0", "GENE3")])
    others = NETWORK.assign(target="UNKNOWN")
    with pytest.raises(ConfigurationError, match="None of the 16 known pairs, such as GENE0 and UNKNOWN"):
        fit(tmp_path / "x", network=others)
    with pytest.raises(ConfigurationError, match="`pairs` must be one of 'balanced', 'all', got 'some'"):
        fit(tmp_path / "x", pairs="some")
    with pytest.raises(ConfigurationError, match="leaves 0 to learn from"):
        fit(tmp_path / "x", network=NETWORK[NETWORK["regulator"] == "GENE0"], split="regulators")


def test_cells_that_fill_no_window_are_told():
    with pytest.warns(SclmWarning, match="4 of 60 cells, .* fill no window of 8 and are left out"):
        STGRNSProcessor.fit(labelled_cells(), network=NETWORK, **SMALL | {"window_size": 8})


def test_networks_that_cannot_be_made_are_refused(tmp_path, network_file):
    folder = str(tmp_path / "model")
    fit(folder, training={"num_train_epochs": 1, "use_cpu": True})
    with pytest.raises(ConfigurationError, match="STGRNS is evidence of its own"):
        sclm_hf.grn(labelled_cells(), folder, evidence="context")
    with pytest.raises(ConfigurationError, match="asks a model"):
        sclm_hf.grn(labelled_cells(), evidence="stgrns")
    with pytest.raises(ConfigurationError, match="`layer` means nothing for STGRNS"):
        sclm_hf.grn(labelled_cells(), folder, layer="counts")
    with pytest.raises(ConfigurationError, match="was told of all but"):
        sclm_hf.grn(
            labelled_cells(), folder, network=str(network_file), regulators=["GENE0"], genes=["GENE3", "GENE4"]
        )
    few = labelled_cells()[:12].copy()
    few.X = few.X.toarray() + 1
    with pytest.warns(SclmWarning, match="2 of 12 cells, the last ones in their order, fill no window of 10"):
        assert len(sclm_hf.grn(few, folder, genes=["GENE0", "GENE3"])) == 2
    fit(tmp_path / "wide", window_size=20, training={"num_train_epochs": 1, "use_cpu": True})
    with pytest.raises(ConfigurationError, match=r"12 cells do not fill one window of 20: .*`max_cells`"):
        sclm_hf.grn(few, str(tmp_path / "wide"), genes=["GENE0", "GENE3"])
