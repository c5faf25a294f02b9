"""`grn` from a file: continued after a stop, in blocks of any size, without the file in memory."""

import anndata
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from sclm_hf import grn
from sclm_hf.cli.main import app
from sclm_hf.errors import ConfigurationError
from sclm_hf.tasks.files.making import table_of_file
from sclm_hf.tasks.networks import evidence
from sclm_hf.tasks.perturbation import perturbing
from sclm_hf.tasks.running import batches

from ..stopped_runs import reading_in_blocks, stopping_at
from ..tiny import GENES, make_cells, save_checkpoint

WORK = {
    "attention": (batches, "_try_batch", lambda *args: len(args[2])),
    "context": (batches, "_try_batch", lambda *args: len(args[2])),
    "perturbation": (perturbing, "run_block", lambda *args: len(args[1])),
    "trees": (evidence, "boosted_trees", lambda *args, **_: len(args[2])),
}
"""Evidence -> the function that does the work, and how much of it a call does."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(perturbing, "RUNS_AT_A_TIME", 16)
    monkeypatch.setattr(batches, "BLOCK_SIZE", 8)
    monkeypatch.setattr(evidence, "TARGETS_AT_A_TIME", 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def source(tmp_path):
    cells = make_cells(48)
    cells.obs["condition"] = ["one", "two"] * 24
    cells.write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


def counting(monkeypatch, kind):
    """How much each call of the function does that does the work."""
    module, name, size = WORK[kind]
    counted, run = [], getattr(module, name)

    def counted_run(*args, **kwargs):
        counted.append(size(*args, **kwargs))
        return run(*args, **kwargs)

    monkeypatch.setattr(module, name, counted_run)
    return counted


def run(source, target, model, kind):
    arguments = ["grn", str(source), str(target), "--evidence", kind, "--genes", ",".join(GENES[:6])]
    arguments += ["--condition-key", "condition", *([] if kind == "trees" else ["--model", model])]
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize(
    ("kind", "number", "n_done"),
    [("attention", 4, 32), ("context", 4, 32), ("perturbation", 3, None), ("trees", 4, 8)],
)
def test_a_stopped_run_goes_on_where_it_was(source, model, tmp_path, monkeypatch, kind, number, n_done):
    counted = counting(monkeypatch, kind)
    outputs = [tmp_path / "whole.tsv", tmp_path / "out.tsv"]
    result = run(source, outputs[0], model, kind)
    assert result.exit_code == 0, result.output
    whole = list(counted)
    with monkeypatch.context() as patched:
        stopping_at(patched, number)
        assert run(source, outputs[1], model, kind).exit_code != 0
    assert not outputs[1].exists() and (tmp_path / "out.tsv.partial").exists()
    counted.clear()
    result = run(source, outputs[1], model, kind)
    assert result.exit_code == 0, result.output
    assert sum(counted) == sum(whole) - (sum(whole[:number]) if n_done is None else n_done) > 0
    assert not (tmp_path / "out.tsv.partial").exists()
    for suffix in (".tsv", ".json"):
        whole_bytes, out_bytes = (one.with_suffix(suffix).read_bytes() for one in outputs)
        assert whole_bytes == out_bytes


@pytest.mark.parametrize("kind", ["attention", "context", "perturbation"])
def test_blocks_of_other_sizes_give_the_same(source, model, monkeypatch, kind):
    cells = anndata.read_h5ad(source)
    small = grn(cells, model, evidence=kind, genes=GENES[:6])
    monkeypatch.setattr(perturbing, "RUNS_AT_A_TIME", 4096)
    monkeypatch.setattr(batches, "BLOCK_SIZE", 4096)
    whole = grn(cells, model, evidence=kind, genes=GENES[:6])
    names = ["regulator", "target"]
    small, whole = (table.set_index(names).sort_index() for table in (small, whole))
    assert small.index.equals(whole.index) and len(small) > 5
    np.testing.assert_allclose(small["score"], whole["score"], atol=1e-3 if kind == "attention" else 1e-5)


@pytest.mark.parametrize("settings", [{"max_cells": 30}, {"condition_key": "condition", "reference": "one"}])
def test_a_file_gives_what_the_function_gives_and_is_never_read_whole(source, model, tmp_path, monkeypatch, settings):
    settings = {"evidence": "context", "n_genes": 8, **settings}
    expected = grn(anndata.read_h5ad(source), model, **settings)
    numbers = reading_in_blocks(monkeypatch)
    with table_of_file("grn", source, tmp_path / "x.tsv", model, overwrite=False, **settings) as table:
        pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert max(numbers) == 6


def test_pieces_of_other_regulators_are_refused(source, model, tmp_path, monkeypatch):
    (tmp_path / "tf.txt").write_text("GENE1\nGENE2\n")
    how = {"overwrite": False, "regulators": str(tmp_path / "tf.txt"), "evidence": "attention", "genes": GENES[:6]}
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stopping_at(patched, 2)
        with table_of_file("grn", source, tmp_path / "out.tsv", model, **how):
            pass
    (tmp_path / "tf.txt").write_text("GENE1\nGENE3\n")
    making = table_of_file("grn", source, tmp_path / "out.tsv", model, **how)
    with pytest.raises(ConfigurationError, match="differs in regulators: repeat that run"), making:
        pass


def test_a_run_that_is_refused_leaves_no_folder(source, model, tmp_path):
    making = table_of_file("grn", source, tmp_path / "out.tsv", model, overwrite=False, genes=["GENE1", "NOTHING"])
    with pytest.raises(ConfigurationError, match="not in the data"), making:
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5ad"]
