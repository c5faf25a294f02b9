"""The demo runs from end to end and leaves what it says it leaves."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import anndata
import pytest
import yaml

DEMO = Path(__file__).parents[1] / "training_scripts" / "demo.py"
LEFT = [
    "annotated.h5ad",
    "results.json",
    "data/pbmc68k.h5ad",
    "data/celltypist.h5ad",
    "pretrained/README.md",
    "pretrained/model.safetensors",
    "pretrained/processor_config.json",
    "pretrained/tokenizer.json",
    "checkpoint/README.md",
    "checkpoint/model.safetensors",
    "checkpoint/processor_config.json",
    "checkpoint/tokenizer.json",
    "checkpoint/.eval_results/pbmc-68k-reduced.yaml",
    "checkpoint/adapter/adapter_config.json",
    "checkpoint/adapter/adapter_model.safetensors",
    "checkpoint/plots/loss_pre-training.png",
    "checkpoint/plots/loss_fine-tuning.png",
    "checkpoint/plots/confusion_matrix.png",
    "checkpoint/plots/umap_pre-trained.png",
    "checkpoint/plots/umap_fine-tuned.png",
]


@pytest.mark.slow
def test_the_demo_in_few_steps(tmp_path):
    pytest.importorskip("celltypist")
    output = tmp_path / "my demo"
    command = [sys.executable, DEMO, "--quick", "--output", output]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not [name for name in LEFT if not (output / name).is_file()]
    assert not list(output.glob("run-*"))

    card = yaml.safe_load((output / "checkpoint" / "README.md").read_text().split("---")[1])
    assert "base_model" not in card and card["library_name"] == "sclm_hf"
    assert json.loads((output / "checkpoint" / "card_facts.json").read_text())["command"].endswith("demo.py --quick")
    cells = anndata.read_h5ad(output / "annotated.h5ad")
    assert {"X_pretrained", "X_scgpt", "sclm_probabilities"} <= set(cells.obsm)
    assert set(cells.obs["sclm_prediction"]) <= set(cells.obs["cell_type"])

    line = next(line for line in result.stdout.splitlines() if line.startswith("Next: "))
    following = subprocess.run(shlex.split(line[len("Next: ") :]), cwd=tmp_path, capture_output=True, text=True)
    assert following.returncode == 0, following.stderr
    assert "sclm_prediction" in anndata.read_h5ad(tmp_path / "out.h5ad").obs


@pytest.mark.slow
def test_another_folder_is_not_replaced(tmp_path):
    (tmp_path / "precious.txt").touch()
    result = subprocess.run([sys.executable, DEMO, "--output", tmp_path], capture_output=True, text=True)
    assert result.returncode == 1 and "is not the output of an earlier demo" in result.stderr
    assert (tmp_path / "precious.txt").exists()
