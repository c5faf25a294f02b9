"""The demo runs from end to end, leaves what it says it leaves, and what it shows holds."""

import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path

import anndata
import pytest
import yaml

from sclm_hf.corpora.training_manifest import read_manifest
from sclm_hf.hub.card import CardFacts, render_card
from sclm_hf.opening.loading import load_model

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "training_scripts" / "demo.py"
CHECKPOINTS = sorted(path.parent for path in (ROOT / "model_cards" / "checkpoints").glob("*/config.json"))
LEFT = [
    "annotated.h5ad",
    "results.json",
    "data/pbmc68k.h5ad",
    "data/celltypist.h5ad",
    "own_model/model.safetensors",
    "annotator/README.md",
    "annotator/model.safetensors",
    "annotator/processor_config.json",
    "annotator/tokenizer.json",
    "annotator/training_manifest.parquet",
    "annotator/.eval_results/pbmc-68k-reduced-5-labels-per-type.yaml",
]


@pytest.fixture(scope="module")
def demo():
    """The demo as a module."""
    pytest.importorskip("celltypist")
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["demo"]


def run_demo(output: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, DEMO, "--output", output, *flags]
    return subprocess.run(command, cwd=output.parent, capture_output=True, text=True)


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_a_committed_checkpoint_is_small_opens_and_says_what_it_was_trained_on(folder):
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5e6
    assert load_model(str(folder), "AutoModel").model.config.model_type
    facts = CardFacts.load(folder / "card_facts.json")
    assert len(read_manifest(str(folder))) == sum(data.n_cells for data in facts.training_data)
    assert all(data.license for data in facts.training_data)
    assert (folder / "README.md").read_text() == str(render_card(facts))


@pytest.mark.slow
def test_a_checkpoint_that_has_seen_cells_of_the_demo_is_refused(demo, tmp_path, monkeypatch):
    paths = demo.write_cells(tmp_path / "data")
    for folder in CHECKPOINTS:
        demo.refuse_seen(paths, folder)
    processor = demo.AutoProcessor.from_pretrained(CHECKPOINTS[0])
    seen = demo.TrainingManifest.of(demo.CellCorpus(paths["pbmc68k"], processor, shuffle=False))
    monkeypatch.setattr(demo, "read_manifest", lambda _: seen)
    with pytest.raises(SystemExit, match="trained on 700 of the demo's cells"):
        demo.refuse_seen(paths, CHECKPOINTS[0])


@pytest.mark.slow
def test_the_demo_in_few_steps(tmp_path):
    pytest.importorskip("celltypist")
    output = tmp_path / "my demo"
    result = run_demo(output, "--quick")
    assert result.returncode == 0, result.stderr
    assert not [name for name in LEFT if not (output / name).is_file()]
    assert not (output / "runs").exists()

    text = (output / "annotator" / "README.md").read_text()
    card = yaml.safe_load(text.split("---")[1])
    assert "base_model" not in card and card["library_name"] == "sclm_hf"
    facts = CardFacts.load(output / "annotator" / "card_facts.json")
    assert facts.command.endswith("demo.py --quick") and len(facts.class_scores) == 10
    assert all((output / "annotator" / path).is_file() and f"]({path})" in text for path in facts.pictures)
    cells = anndata.read_h5ad(output / "annotated.h5ad")
    assert {"X_scgpt", "X_untrained", "sclm_probabilities"} <= set(cells.obsm)
    assert set(cells.obs["sclm_prediction"]) <= set(cells.obs["cell_type"])

    line = next(line for line in result.stdout.splitlines() if line.startswith("Next: "))
    following = subprocess.run(shlex.split(line[len("Next: ") :]), cwd=tmp_path, capture_output=True, text=True)
    assert following.returncode == 0, following.stderr
    assert "sclm_prediction" in anndata.read_h5ad(tmp_path / "out.h5ad").obs


@pytest.mark.slow
def test_pre_training_does_no_harm_and_no_baseline_is_clearly_above_the_saved_annotator(demo, tmp_path):
    result = run_demo(tmp_path / "output")
    assert result.returncode == 0, result.stderr
    for table in json.loads((tmp_path / "output" / "results.json").read_text()).values():
        scored = [one for one in table["results"] if one["metric"] == "macro_f1" and not one["reference"]]
        scores = {one["method"]: one["mean"] for one in scored}
        assert scores[demo.MODEL] >= scores[demo.TWIN]
        differences = {
            one["method"]: one for one in table["results"] if one["metric"] == "macro_f1" and one["reference"]
        }
        assert differences[demo.SAVED]["reference"] in demo.BASELINES and differences[demo.SAVED]["high"] >= 0


@pytest.mark.slow
def test_another_folder_is_not_replaced(tmp_path):
    (tmp_path / "precious.txt").touch()
    result = run_demo(tmp_path)
    assert result.returncode == 1 and "is not the output of an earlier demo" in result.stderr
    assert (tmp_path / "precious.txt").exists()
