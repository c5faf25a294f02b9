"""`explain` from a file: continued after a stop, in parts of any size, without the file in memory."""

import anndata
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from sclm_hf import ScGPTForSequenceClassification, explain
from sclm_hf.cli.main import app
from sclm_hf.errors import ConfigurationError
from sclm_hf.tasks.explanation import explaining, parts
from sclm_hf.tasks.files.making import table_of_file
from sclm_hf.tasks.running import batches

from ..stopped_runs import reading_in_blocks, stopping
from ..tiny import make_cells, save_checkpoint

ALL = "integrated_gradients,knock_out,attention"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "PASSES_AT_A_TIME", 600)
    monkeypatch.setattr(batches, "BLOCK_SIZE", 8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model"), ScGPTForSequenceClassification)


@pytest.fixture
def source(tmp_path):
    make_cells().write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


@pytest.fixture
def explained(monkeypatch):
    """The numbers of cells of the parts that are not loaded."""
    counted, run = [], explaining.explain_part
    monkeypatch.setattr(explaining, "explain_part", lambda *args: counted.append(len(args[1])) or run(*args))
    return counted


def run(source, target, model, *more):
    arguments = ["explain", str(source), str(target), "--model", model, "--methods", ALL, *more]
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize(
    ("stop", "n_kept"), [("classes-00000001.npz", None), ("00000000.npz", None), ("00000002.npz", 2)]
)
def test_a_stopped_run_goes_on_where_it_was(source, model, tmp_path, explained, monkeypatch, stop, n_kept):
    outputs = [tmp_path / "whole.tsv", tmp_path / "out.tsv"]
    assert run(source, outputs[0], model).exit_code == 0
    whole = list(explained)
    with monkeypatch.context() as patched:
        stopping(patched, stop)
        assert run(source, outputs[1], model).exit_code != 0
    assert not outputs[1].exists() and (tmp_path / "out.tsv.partial").exists()
    explained.clear()
    result = run(source, outputs[1], model)
    assert result.exit_code == 0, result.output
    assert len(whole) > 3 and explained == whole[n_kept:]
    assert not (tmp_path / "out.tsv.partial").exists()
    for suffix in (".tsv", ".json"):
        whole_bytes, out_bytes = (one.with_suffix(suffix).read_bytes() for one in outputs)
        assert whole_bytes == out_bytes


def test_parts_of_other_sizes_give_the_same(source, model, monkeypatch):
    cells = anndata.read_h5ad(source)
    small = explain(cells, model, methods=ALL)
    monkeypatch.setattr(parts, "PASSES_AT_A_TIME", 8192)
    monkeypatch.setattr(explaining, "_MOST_SCORES", 100)
    whole = explain(cells, model, methods=ALL)
    names = ["label", "method", "gene"]
    small, whole = (table.set_index(names).sort_index() for table in (small, whole))
    pd.testing.assert_frame_equal(small, whole, atol=1e-5)


def test_a_file_gives_what_the_function_gives_and_is_never_read_whole(source, model, tmp_path, monkeypatch):
    expected = explain(anndata.read_h5ad(source), model, max_cells=3)
    numbers = reading_in_blocks(monkeypatch)
    making = table_of_file("explain", source, tmp_path / "x.tsv", model, overwrite=False, max_cells=3)
    with making as table:
        pd.testing.assert_frame_equal(table, expected, check_exact=True)
        assert table.attrs["curves"] == expected.attrs["curves"]
    assert max(numbers) == 6


def test_pieces_of_another_run_are_refused(source, model, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stopping(patched, "00000001.npz")
        run(source, tmp_path / "out.tsv", model)
    making = table_of_file("explain", source, tmp_path / "out.tsv", model, overwrite=False)
    with pytest.raises(ConfigurationError, match="differs in methods: repeat that run"), making:
        pass


def test_scores_of_genes_some_at_a_time_are_those_of_all(monkeypatch):
    from scipy.sparse import random as draw

    scores = draw(20, 50, density=0.3, format="csc", random_state=0)
    names = np.array([f"g{number}" for number in range(50)], object)
    whole = explaining._summed(pd, scores, names, 0)
    monkeypatch.setattr(explaining, "_MOST_SCORES", 60)
    pd.testing.assert_frame_equal(explaining._summed(pd, scores, names, 0), whole)
