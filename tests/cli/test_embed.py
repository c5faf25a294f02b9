import os
import shutil
import signal
import warnings
from pathlib import Path

import anndata
import numpy as np
import pytest
from typer.testing import CliRunner

from sclm_hf import ScGPTForSequenceClassification, annotate, embed
from sclm_hf.cli.main import app
from sclm_hf.errors import SclmWarning

from ..tasks.tiny import LABELS, collapsed, make_cells, make_model, make_processor, save_checkpoint


@pytest.fixture
def files(tmp_path):
    make_cells().write_h5ad(tmp_path / "in.h5ad")
    model = save_checkpoint(tmp_path / "model", ScGPTForSequenceClassification)
    return str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad"), model


def test_embed_writes_what_the_function_gives(files):
    source, target, model = files
    result = CliRunner().invoke(app, ["embed", source, target, "--model", model, "--key", "X_mine", "--layer", "X"])
    assert result.exit_code == 0, result.output
    expected = embed(make_cells(), model).obsm["X_scgpt"]
    written = anndata.read_h5ad(target)
    np.testing.assert_allclose(written.obsm["X_mine"], expected, atol=1e-5)
    assert written.uns["sclm_hf"]["X_mine"]["settings"]["layer"] == "X"
    assert "UNKNOWN1" in result.output and "counts covered" in result.output


def test_annotate_writes_what_the_function_gives(files):
    source, target, model = files
    arguments = ["annotate", source, target, "--model", model, "--unassigned-threshold", "0.4"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    expected = annotate(make_cells(), model, unassigned_threshold=0.4)
    written = anndata.read_h5ad(target)
    assert written.obs["sclm_prediction"].tolist() == expected.obs["sclm_prediction"].tolist()
    assert f"{(written.obs['sclm_prediction'] == 'B cell').sum():>8,}  B cell" in result.output


def test_embeddings_of_a_collapsed_model_are_told(files):
    source, target, _ = files
    make_cells(60).write_h5ad(source)
    collapsed(make_model()).save_pretrained(model := str(Path(target).with_name("collapsed")))
    make_processor().save_pretrained(model)
    with pytest.warns(SclmWarning, match="out.h5ad` hardly tell cells apart"):
        result = CliRunner().invoke(app, ["embed", source, target, "--model", model])
    assert "mean cosine between cells 1.000" in result.output and "hardly tell cells apart" in result.output
    with warnings.catch_warnings(action="ignore"):
        expected = embed(make_cells(60), model).uns["sclm_hf"]["X_scgpt"]["collapse"]
    assert anndata.read_h5ad(target).uns["sclm_hf"]["X_scgpt"]["collapse"] == pytest.approx(expected)


def test_nothing_is_said_of_how_alike_a_few_cells_are(files):
    source, target, model = files
    result = CliRunner().invoke(app, ["embed", source, target, "--model", model])
    assert "Wrote" in result.output and "cosine" not in result.output


def test_evaluate_prints_the_scores_that_the_function_gives(files, tmp_path):
    model, cells = files[2], make_cells()
    cells.obs["cell_type"] = np.resize(list(LABELS.values()), cells.n_obs)
    cells.write_h5ad(tmp_path / "labelled.h5ad")
    arguments = ["evaluate", str(tmp_path / "labelled.h5ad"), str(tmp_path / "scored.h5ad"), "--model", model]
    result = CliRunner().invoke(app, [*arguments, "--label-key", "cell_type"])
    scores = anndata.read_h5ad(tmp_path / "scored.h5ad").uns["sclm_hf"]["sclm_prediction"]["scores"]
    assert f"macro-F1 {scores['macro_f1']['mean']:.3f}" in result.output
    assert "no training manifest" in result.output


@pytest.mark.parametrize("verb", ["embed", "annotate"])
def test_an_existing_file_is_not_touched_before_or_after_the_work(files, verb):
    source, target, model = files
    Path(target).write_text("precious")
    result = CliRunner().invoke(app, [verb, source, target, "--model", "never looked at"])
    assert result.exit_code == 1 and "--overwrite" in result.stderr
    assert Path(target).read_text() == "precious"
    assert CliRunner().invoke(app, [verb, source, target, "--model", model, "--overwrite"]).exit_code == 0
    assert anndata.read_h5ad(target).n_obs == 23


def test_a_command_that_is_repeated_does_nothing_and_with_other_settings_asks(files):
    source, target, model = files
    arguments = ["embed", source, target, "--model", model]
    first = CliRunner().invoke(app, arguments)
    written = Path(target).stat().st_mtime_ns
    again = CliRunner().invoke(app, arguments)
    assert (first.exit_code, again.exit_code, again.stdout) == (0, 0, first.stdout)
    assert Path(target).stat().st_mtime_ns == written
    changed = CliRunner().invoke(app, [*arguments, "--seed", "1"])
    assert changed.exit_code == 1 and "--overwrite" in changed.stderr


def test_cells_are_counted_whatever_encodes_their_names(files):
    source, target, model = files
    cells = make_cells()
    cells.obs.index = cells.obs.index.astype("string")
    with anndata.settings.override(allow_write_nullable_strings=True):
        cells.write_h5ad(source)
    result = CliRunner().invoke(app, ["embed", source, target, "--model", model])
    assert result.exit_code == 0 and "with 23 cells" in result.output, result.output


@pytest.mark.parametrize("verb", ["embed", "annotate", "perturb"])
def test_a_missing_file_is_told_before_a_model_is_loaded(tmp_path, verb):
    arguments = [verb, str(tmp_path / "absent.h5ad"), str(tmp_path / "out.h5ad"), "--model", "never looked at"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and "absent.h5ad" in result.stderr and "never looked at" not in result.stderr


def test_of_a_folder_a_table_says_what_became_of_each_file(files, tmp_path):
    source, _, model = files
    (tmp_path / "cells").mkdir()
    Path(source).rename(tmp_path / "cells" / "good.h5ad")
    (tmp_path / "cells" / "bad.h5ad").write_text("no HDF5")
    arguments = ["annotate", str(tmp_path / "cells"), str(tmp_path / "results"), "--model", model, "--key", "mine"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and "1 of 2 files could not be used" in result.stderr
    table = result.stdout[result.stdout.index("┏") :]
    assert "good.h5ad" in table and " 23 " in table and "bad.h5ad" in table and "HDF5" in table
    assert "mine" in anndata.read_h5ad(tmp_path / "results" / "good.h5ad").obs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_with_one_line_and_nothing_half_written(files, tmp_path, monkeypatch, number):
    source, target, model = files
    before, handler = sorted(os.listdir(tmp_path)), signal.getsignal(signal.SIGTERM)
    Path(target).write_text("precious")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", lambda a, b: Path(b).write_text("half") and signal.raise_signal(number))
        result = CliRunner().invoke(app, ["embed", source, target, "--model", model, "--overwrite"])
    assert result.exit_code == 128 + number and "Traceback" not in result.output
    assert result.stderr.splitlines()[-1].startswith(f"Stopped by {number.name}; nothing half written is left.")
    assert Path(target).read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "out.h5ad", "out.h5ad.partial"])
    assert signal.getsignal(signal.SIGTERM) is handler
