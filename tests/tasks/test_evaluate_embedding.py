"""Embeddings scored for integration."""

import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from sclm_hf import evaluate
from sclm_hf.cli.main import make_app
from sclm_hf.errors import ConfigurationError, CorpusError, ExpressionError, MissingDependencyError, SclmWarning

from .tiny import make_cells

SETTINGS = {"embedding": "X_good", "batch_key": "batch", "label_key": "cell_type"}


@pytest.fixture
def cells():
    """Two cell types in two batches, and two embeddings: by type, and by batch."""
    cells, generator = make_cells(200), np.random.default_rng(0)
    types, noise = np.arange(200) // 100, generator.normal(size=(200, 2))
    counts = cells.X.toarray()
    counts[types == 1, :30] += 5
    cells.X, cells.obs["cell_type"] = counts, np.array(["a", "b"])[types]
    cells.obsm["X_good"] = noise + np.c_[types * 10, types]
    cells.obsm["X_bad"] = noise + np.c_[cells.obs["batch"] * 10, cells.obs["batch"]]
    return cells


@pytest.fixture
def installed():
    pytest.importorskip("scib_metrics", reason="scib-metrics is in the extra `integration`")
    pytest.importorskip("harmonypy", reason="harmonypy is in the extra `integration`")


@pytest.mark.slow
def test_baselines_come_first_and_a_good_embedding_is_better_than_a_bad_one(installed, cells):
    found = evaluate(cells, embedding=["X_good", "X_bad"], batch_key="batch", label_key="cell_type")
    scores = found.uns["sclm_hf"]["sclm_integration"]["scores"]
    assert scores["embedding"].tolist() == ["PCA", "PCA + Harmony", "X_good", "X_bad"]
    good, bad = ({name: scores[name][place] for name in scores if name != "embedding"} for place in (2, 3))
    assert good["nmi"] == good["ari"] == good["clisi"] == 1 and good["total"] > 0.9 > 0.6 > bad["total"]
    assert good["ilisi"] > 0.8 and bad["ilisi"] < 0.1 and bad["kbet"] < 0.1 and bad["asw_batch"] < 0.3
    assert scores["pcr"][0] == 0 and all(0 <= value <= 1 for value in good.values())


@pytest.mark.slow
def test_the_command_prints_the_table_and_json(installed, cells, tmp_path):
    cells.write_h5ad(tmp_path / "in.h5ad")
    flags = ["--embedding", "X_good", "--batch-key", "batch", "--label-key", "cell_type"]
    arguments = ["evaluate", str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad"), *flags]
    done = CliRunner().invoke(make_app(), [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["n_scored"] == 200 and told["scores"]["nmi"][2] == 1
    done = CliRunner().invoke(make_app(), [*arguments, "--overwrite"])
    assert done.exit_code == 0 and "graph connectivity" in done.output and "PCA + Harmony" in done.output


@pytest.mark.slow
def test_labels_that_taught_the_embedding_are_refused_or_left_out(installed, cells):
    cells.uns["sclm_hf"] = {"X_good": {"model": "gone", "teaches_labels": True}}
    cells.obs["sclm_seen_in_training"] = np.arange(200) // 2 % 2 == 0
    with pytest.raises(ConfigurationError, match="100 of the 200 cells were seen in training"):
        evaluate(cells, **SETTINGS)
    record = evaluate(cells, seen="leave_out", **SETTINGS).uns["sclm_hf"]["sclm_integration"]
    assert (record["n_scored"], record["n_seen"], record["has_manifest"]) == (100, 100, False)


@pytest.mark.slow
def test_harmony_that_is_missing_is_told(installed, cells, monkeypatch):
    monkeypatch.setitem(sys.modules, "harmonypy", None)
    with pytest.warns(SclmWarning, match=r"'PCA \+ Harmony' is left out.*sclm_hf\[integration\]"):
        found = evaluate(cells, **SETTINGS)
    assert found.uns["sclm_hf"]["sclm_integration"]["scores"]["embedding"].tolist() == ["PCA", "X_good"]


def test_scib_metrics_that_is_missing_is_told_before_the_work(cells, monkeypatch):
    monkeypatch.setitem(sys.modules, "scib_metrics", None)
    with pytest.raises(MissingDependencyError, match=r"sclm_hf\[integration\]"):
        evaluate(cells, **SETTINGS)


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"embedding": "X_no"}, ConfigurationError, r"no 'X_no'.*it has \['X_bad', 'X_good'"),
        ({"embedding": "X_same"}, ExpressionError, "the same for all 200 cells"),
        ({"embedding": ""}, ConfigurationError, "names no embedding"),
        ({"batch_key": None}, ConfigurationError, "--batch-key"),
        ({"batch_key": "one"}, ConfigurationError, "of one batch"),
        ({"label_key": "one"}, ConfigurationError, "no two labels"),
        ({"label_key": "absent"}, CorpusError, "absent"),
        ({"model": "somewhere"}, ConfigurationError, "either a `model`"),
    ],
)
def test_refused(cells, settings, error, told):
    cells.obs["one"], cells.obsm["X_same"] = "x", np.ones((200, 2))
    with pytest.raises(error, match=told):
        evaluate(cells, **(SETTINGS | settings))


def test_too_few_cells_are_refused(installed, cells):
    with pytest.raises(ConfigurationError, match="there are 80 to score"):
        evaluate(cells[60:140].copy(), **SETTINGS)
    with pytest.raises(ConfigurationError, match="have no label in two batches"):
        evaluate(cells, **(SETTINGS | {"label_key": "batch"}))
