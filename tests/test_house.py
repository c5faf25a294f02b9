"""The rules of the house that a machine can check."""

import ast
import configparser
import importlib.util
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_relative_import_files

from sclm_hf import FAMILIES
from sclm_hf.registry import COMPOSITES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sclm_hf"


def test_imports_go_down_the_floors():
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_no_module_imports_what_another_keeps_private():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.level or node.module.startswith("sclm_hf")):
                private = [alias.name for alias in node.names if alias.name.startswith("_") and node.module]
                assert not private or node.module == "_version", f"{path.name}: {private}"


@pytest.mark.parametrize("family", FAMILIES)
def test_family_folder_holds_its_four_files(family):
    """And a fifth, `processing_<family>.py`, where the input is its own; parts of a large model have files too.

    Where there are no original checkpoints there is no converter.
    """
    folder, known = PACKAGE / "modeling" / family, FAMILIES[family]
    expected = {"__init__.py", *(f"{kind}_{family}.py" for kind in ("configuration", "modeling"))}
    if known.source_layout:
        expected.add(f"convert_{family}.py")
    if known.processor_module.startswith(known.package):
        expected.add(f"processing_{family}.py")
    parts = {path.name for path in folder.glob(f"modeling_{family}_*.py")}
    assert {path.name for path in folder.iterdir() if path.is_file()} == expected | parts


@pytest.mark.parametrize("family", FAMILIES)
def test_model_files_can_be_copied_to_the_hub(family):
    """Only `from .x import y` of the own folder, and absolutely only what the exporter vendors."""
    folder = PACKAGE / "modeling" / family
    files = {path.name for path in (*folder.glob("configuration_*.py"), *folder.glob("modeling_*.py"))}
    copied = get_relative_import_files(folder / f"modeling_{family}.py")
    assert {Path(name).name for name in copied} | {f"modeling_{family}.py"} == files
    for name in files:
        for node in ast.walk(ast.parse((folder / name).read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{name}: `from ..` breaks the copy"
                assert node.level == 0 or node.module, f"{name}: `from . import` loses the file"
                assert not (node.level and node.module.startswith("processing_")), f"{name}: a processor is not copied"
                if node.level == 0 and node.module.startswith("sclm_hf"):
                    assert node.module.startswith(("sclm_hf.modeling.common", "sclm_hf.errors")), node.module


MAY_LOAD = {
    "adapters/lora.py": "puts an adapter on a base that opening opened; peft stays in adapters",
    "modeling/cell_text/modeling_cell_text.py": "its encoder and its language model, with new weights",
    "modeling/cell_text/processing_cell_text.py": "the two processors that it joins",
    "modeling/cell_text_dual_encoder/modeling_cell_text_dual_encoder.py": "its two encoders, with new weights",
    "modeling/cell_text_dual_encoder/processing_cell_text_dual_encoder.py": "the two processors that it joins",
    "modeling/common/base.py": "what loading does for all families",
    "modeling/uce/modeling_uce.py": "what loading does for UCE's table of proteins",
}
"""Files outside `opening` that call a `from_pretrained` or `from_config`, and why."""


def test_models_and_processors_are_loaded_in_opening_only():
    loading = set()
    for path in PACKAGE.rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        if {"from_pretrained", "from_config", "_from_config"} & {getattr(call, "attr", None) for call in calls}:
            loading.add(path.relative_to(PACKAGE).as_posix())
    assert {name for name in loading if not name.startswith("opening/")} == set(MAY_LOAD)


def test_no_room_decides_by_the_name_of_a_family():
    """Such facts stand in the family's file of the registry; the family of a new model has a default."""
    named = {family: f"sclm_hf.modeling.{family}" for family in FAMILIES}
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name in ("registry", *FAMILIES, *COMPOSITES) or path.name == "pretrain.py":
            continue
        constants = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        # a schedule of the learning rate, a projection and a predictor of perturbations have that name as well
        named_so = ("arguments.py", "align.py", "baselines.py", "predict_perturbation.py")
        others = {"linear"} if path.name in named_so else set()
        assert not constants & {*named, *named.values()} - others, path


def test_a_file_is_one_idea():
    """None above 700 lines but the model of scGPT, whose inputs are documented head by head."""
    lines = {path.name: path.read_text(encoding="utf-8").count("\n") for path in PACKAGE.rglob("*.py")}
    assert {name for name, number in lines.items() if number > 700} <= {"modeling_scgpt.py"}
    assert lines["modeling_scgpt.py"] <= 850


def test_comments_end_without_a_full_stop_and_calls_are_spelt_out():
    for path in PACKAGE.rglob("*.py"):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        for line, following in pairwise([*lines, ""]):
            assert not line.startswith("# ") or not line.endswith(".") or following.startswith("#"), f"{path}: {line}"
            assert not line.startswith("how = {"), f"{path}: {line}"


def test_what_kind_of_model_a_model_is_is_asked_in_one_place():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name not in ("opening", "adapters"):
            text = path.read_text()
            assert 'endswith("For' not in text and "get_base_model" not in text, path


def test_import_linter_knows_every_family():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    layers = config["importlinter:contract:floors"]["layers"]
    assert all(f"sclm_hf.modeling.{family}" in layers for family in FAMILIES)


def test_readme_commands_are_targets_of_the_makefile():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in readme
        assert f"\n{target}:" in makefile


def test_no_absolute_paths_of_a_machine():
    suffixes = {".py", ".md", ".cfg", ".toml", ".yaml", ".txt", ".json", ""}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in suffixes and path.is_file() and path != Path(__file__):
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not any(start in text for start in ("/home/", "/Users/", "/root/", "/work/")), name


@pytest.mark.parametrize("family", FAMILIES)
def test_family_card_is_up_to_date(family):
    spec = importlib.util.spec_from_file_location("render", ROOT / "model_cards" / "render.py")
    render = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render)
    assert (ROOT / "model_cards" / f"{family}.md").read_text(encoding="utf-8") == render.family_card(family) + "\n"
