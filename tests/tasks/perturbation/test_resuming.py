"""`perturb` from file to file: in blocks, and continued after a stop."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from sclm_hf import perturb
from sclm_hf.corpora.building.build import build_corpus
from sclm_hf.errors import ConfigurationError
from sclm_hf.tasks.files import file_to_file
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.tasks.perturb import States
from sclm_hf.tasks.perturbation import perturbing
from sclm_hf.tasks.running import batches

from ..stopped_runs import reading_in_blocks, stopping
from ..tiny import GENES, make_cells, save_checkpoint

HOW = {"genes": GENES[:12], "gene_effects": True, "states": States("state", "ill", "well", ("other",))}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(perturbing, "RUNS_AT_A_TIME", 12)
    monkeypatch.setattr(batches, "BLOCK_SIZE", 8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def source(tmp_path):
    cells = make_cells()
    cells.obs["state"] = pd.Categorical(["ill", "ill", "well", "other", "ill"] * 4 + ["ill"] * 3)
    cells.obs["size"] = np.arange(23) / 2
    cells.write_h5ad(tmp_path / "in.h5ad")
    return str(tmp_path / "in.h5ad")


@pytest.fixture
def runs(monkeypatch):
    """The numbers of runs of blocks that are not loaded."""
    counted, run = [], perturbing.run_block
    monkeypatch.setattr(perturbing, "run_block", lambda *args: counted.append(len(args[1])) or run(*args))
    return counted


def test_a_file_gives_what_the_function_gives(source, model, tmp_path):
    assert run_files("perturb", source, tmp_path / "out.h5ad", model, **HOW)[0].key == "perturb"
    written, expected = anndata.read_h5ad(tmp_path / "out.h5ad"), perturb(anndata.read_h5ad(source), model, **HOW)
    np.testing.assert_array_equal(written.X, expected.X)
    for name in expected.layers:
        np.testing.assert_array_equal(written.layers[name], expected.layers[name])
    pd.testing.assert_frame_equal(written.obs, expected.obs)
    pd.testing.assert_frame_equal(written.var, expected.var)
    pd.testing.assert_frame_equal(written.uns["gene_effects"], expected.uns["gene_effects"], check_dtype=False)
    assert not (tmp_path / "out.h5ad.partial").exists()


def test_blocks_of_other_sizes_give_the_same(source, model, monkeypatch):
    cells = anndata.read_h5ad(source)
    small = perturb(cells, model, **HOW)
    monkeypatch.setattr(perturbing, "RUNS_AT_A_TIME", 4096)
    monkeypatch.setattr(batches, "BLOCK_SIZE", 4096)
    whole = perturb(cells, model, **HOW)
    np.testing.assert_allclose(small.X, whole.X, atol=1e-6)
    np.testing.assert_allclose(small.layers["shift_well"], whole.layers["shift_well"], atol=1e-6)
    columns = ["perturbation", "gene", "n_cells"]
    pd.testing.assert_frame_equal(small.uns["gene_effects"][columns], whole.uns["gene_effects"][columns])


@pytest.mark.parametrize(
    ("stop", "n_kept"), [("states-00000001.npz", None), ("00000000.npz", None), ("00000003.npz", 3)]
)
def test_a_stopped_run_goes_on_where_it_was(source, model, tmp_path, runs, monkeypatch, stop, n_kept):
    run_files("perturb", source, tmp_path / "whole.h5ad", model, **HOW)
    n_runs = list(runs)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stopping(patched, stop)
        run_files("perturb", source, tmp_path / "out.h5ad", model, **HOW)
    assert not (tmp_path / "out.h5ad").exists()
    runs.clear()
    run_files("perturb", source, tmp_path / "out.h5ad", model, **HOW)
    assert len(n_runs) > 4 and runs == n_runs[n_kept:]
    assert (tmp_path / "out.h5ad").read_bytes() == (tmp_path / "whole.h5ad").read_bytes()
    runs.clear()
    run_files("perturb", source, tmp_path / "out.h5ad", model, **HOW)
    assert not runs


_KILLED = """
import os, signal, sys
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.tasks.perturbation import perturbing
source, destination, model = sys.argv[1:]
perturbing.RUNS_AT_A_TIME, replace = 12, os.replace
def replace_and_die(old, new):
    replace(old, new)
    if str(new).endswith("01.npz"):
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace_and_die
run_files("perturb", source, destination, model, genes=["GENE0", "GENE1"])
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(source, model, tmp_path, runs):
    root = str(Path(file_to_file.__file__).parents[3])
    killed = subprocess.run([sys.executable, "-c", _KILLED, source, tmp_path / "out.h5ad", model], cwd=root)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "out.h5ad").exists()
    run_files("perturb", source, tmp_path / "out.h5ad", model, genes=["GENE0", "GENE1"])
    n_left = sum(runs)
    run_files("perturb", source, tmp_path / "whole.h5ad", model, genes=["GENE0", "GENE1"])
    assert 0 < n_left < sum(runs) - n_left
    whole, out = (anndata.read_h5ad(tmp_path / name) for name in ("whole.h5ad", "out.h5ad"))
    np.testing.assert_allclose(out.X, whole.X, atol=1e-6)
    assert sorted(os.listdir(tmp_path)) == ["in.h5ad", "out.h5ad", "whole.h5ad"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"genes": {"one": ["GENE0", "GENE2"]}}, "groups"),
        ({"genes": {"one": ["GENE0", "GENE1"]}, "gene_effects": True}, "gene_effects"),
        ({"genes": {"one": ["GENE0", "GENE1"]}, "seed": 1}, "seed"),
    ],
)
def test_pieces_of_another_run_are_refused(source, model, tmp_path, monkeypatch, settings, told):
    monkeypatch.setattr(perturbing, "RUNS_AT_A_TIME", 4)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stopping(patched, "00000001.npz")
        run_files("perturb", source, tmp_path / "out.h5ad", model, genes={"one": ["GENE0", "GENE1"]})
    with pytest.raises(ConfigurationError, match=f"differs in {told}: repeat that run, or pass `overwrite`"):
        run_files("perturb", source, tmp_path / "out.h5ad", model, **settings)
    run_files("perturb", source, tmp_path / "out.h5ad", model, **settings, overwrite=True)
    with pytest.raises(ConfigurationError, match="is not the result of this command"):
        run_files("perturb", source, tmp_path / "out.h5ad", model, genes={"one": ["GENE0", "GENE1"]})


def test_a_file_is_never_read_whole(source, model, tmp_path, monkeypatch):
    numbers = reading_in_blocks(monkeypatch)
    run_files("perturb", source, tmp_path / "out.h5ad", model, **HOW)
    assert max(numbers) == 6


def test_a_folder_of_files_is_refused(source, model, tmp_path):
    with pytest.raises(ConfigurationError, match="is a folder of files: `perturb` reads one"):
        run_files("perturb", tmp_path, tmp_path / "out.h5ad", model, genes=["GENE0"])


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data")
def test_a_zarr_folder_gives_what_a_file_gives(source, model, tmp_path):
    anndata.read_h5ad(source).write_zarr(tmp_path / "in.zarr")
    for name in ("in.h5ad", "in.zarr"):
        run_files("perturb", tmp_path / name, tmp_path / f"of {name}.h5ad", model, **HOW)
    one, other = (anndata.read_h5ad(tmp_path / f"of {name}.h5ad") for name in ("in.h5ad", "in.zarr"))
    np.testing.assert_array_equal(one.X, other.X)
    pd.testing.assert_frame_equal(one.obs, other.obs)


def test_a_folder_of_shards_with_one_data_set_is_read(source, model, tmp_path):
    build_corpus(source, tmp_path / "shards", obs_columns=["state", "size"])
    for name in ("in.h5ad", "shards"):
        run_files("perturb", tmp_path / name, tmp_path / f"of {name}.h5ad", model, **HOW)
    one, other = (anndata.read_h5ad(tmp_path / f"of {name}.h5ad") for name in ("in.h5ad", "shards"))
    np.testing.assert_array_equal(one.X, other[one.obs_names].X)
    assert one.obs["state"].astype(str).tolist() == other.obs["state"].astype(str).tolist()
