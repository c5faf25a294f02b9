"""`sclm-hf doctor`: what a machine has, and whether a model is sound."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from sclm_hf import ScGPTModel
from sclm_hf.cli.main import app

from ..tasks.tiny import make_cells, save_checkpoint


def run(*arguments):
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


@pytest.fixture
def model(tmp_path):
    return save_checkpoint(tmp_path / "model", ScGPTModel)


def test_the_machine_alone():
    found = run()
    assert found.exit_code == 0
    assert "ok   sclm_hf" in found.output and "CPU cores" in found.output and "attention: eager, sdpa" in found.output


def test_a_sound_model_and_its_embedding_as_json(model, tmp_path):
    make_cells(60).write_h5ad(tmp_path / "cells.h5ad")
    found = json.loads(run(model, "--cells", tmp_path / "cells.h5ad", "--json").stdout.splitlines()[-1])
    says = {one["what"]: one["says"] for one in found["model"]}
    assert says["family"] == "scGPT, ScGPTModel" and "all finite" in says["weights"]
    assert "cannot be checked" in says["training manifest"] and "effective rank" in says["embedding"]


def test_damage_is_a_finding_and_the_exit_code(model):
    weights = load_file(f"{model}/model.safetensors")
    name = next(iter(weights))
    save_file(weights | {name: np.full_like(weights[name], np.nan)}, f"{model}/model.safetensors", {"format": "pt"})
    found = run(model)
    assert found.exit_code == 1 and "BAD" in found.output and "NaN" in found.output


def test_what_is_not_there_is_said(tmp_path):
    found = run(tmp_path / "nothing")
    assert found.exit_code == 1 and "does not exist" in found.output
    assert run(tmp_path, "--cells", tmp_path / "nothing.h5ad").exit_code == 1
