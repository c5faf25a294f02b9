"""A new family is its folder, its file of the registry and one line there: it then works everywhere."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sclm_hf

pytestmark = pytest.mark.slow

HERE, PACKAGE = Path(__file__).parent, Path(sclm_hf.__file__).parent


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the verbs make of the toy, in a copy of the package to which it was added as CONTRIBUTING.md says."""
    folder = tmp_path_factory.mktemp("toy")
    house = folder / "sclm_hf"
    house.mkdir()
    for entry in PACKAGE.iterdir():
        if entry.name not in ("registry", "modeling", "__pycache__"):
            (house / entry.name).symlink_to(entry)
    for room in ("registry", "modeling"):
        shutil.copytree(PACKAGE / room, house / room, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(HERE / "toy" / room, house / room, dirs_exist_ok=True)
    names = house / "registry" / "__init__.py"
    names.write_text(names.read_text().replace('    "tgpt",\n', '    "tgpt",\n    "toy",\n'))
    command = [sys.executable, HERE / "use_toy.py", folder]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert Path(found["package"]).is_relative_to(folder)
    return found


def test_auto_classes_open_it(found):
    assert found["opened"] == {
        "AutoConfig": "ToyConfig",
        "AutoModel": "ToyModel",
        "AutoModelForPreTraining": "ToyForMaskedExpression",
        "AutoTokenizer": "GeneTokenizer",
        "AutoFeatureExtractor": "ExpressionFeatureExtractor",
        "AutoProcessor": "CellProcessor",
    }


def test_its_cells_are_tokenised_embedded_and_annotated(found):
    assert found["inputs"] == ["attention_mask", "expression_values", "input_ids"]
    assert (found["embedded"], found["annotated"]) == ([12, 8], 12)


def test_a_lora_adapts_the_layers_that_the_registry_names(found):
    assert found["adapted"] == ["model.mix"]


def test_it_is_pre_trained_on_the_objective_that_the_registry_names(found):
    assert len(found["losses"]) == 1 and math.isfinite(found["losses"][0])


def test_its_card_says_what_the_registry_knows(found):
    for part in ("**Toy** (nowhere)", "Five bins of the expressed genes", "Nobody. A model for tests. 2026."):
        assert part in found["card"]
