"""What README, the documentation and the skill tell people to type: flags and names exist, and first blocks run."""

import ast
import dataclasses
import functools
import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import sclm_hf
from sclm_hf.cli.main import app
from sclm_hf.training.verbs import SETTINGS

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "model_cards" / "checkpoints" / "scgpt-blood-small"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    ROOT / "sclm_hf" / "templates" / "SKILL.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts and path.stem != "reference"),
]


def blocks(text, language):
    return re.findall(rf"^```(?:{language})\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands():
    """Each call of `sclm-hf` in the blocks of shell of all pages, by page."""
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8"), "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words = words[1:]
                if words and words[0] == "sclm-hf":
                    yield pytest.param(words[1:], id=f"{page.stem}: {' '.join(words[1:3])}")


@functools.cache
def root_command():
    return typer.main.get_command(app)


@pytest.mark.parametrize("words", commands())
def test_a_command_has_the_flags_that_are_told(words):
    command, words = root_command(), list(words)
    path = []
    while hasattr(command, "commands"):
        path.append(words.pop(0))
        assert path[-1] in command.commands, path
        command = command.commands[path[-1]]
    if path[0] in SETTINGS:
        known = {field.name for settings in SETTINGS[path[0]] for field in dataclasses.fields(settings)} | {"config"}
        assert {word[2:].partition("=")[0] for word in words if word.startswith("--")} - {"help"} <= known
        return
    context = command.make_context(path[-1], words)
    assert context.params


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_of_python_are_sound_and_name_what_there_is(page):
    text = page.read_text(encoding="utf-8")
    for block in [*blocks(text, "python"), *blocks(text, r"\{code-cell\}[^\n]*")]:
        block = re.sub(r"^(:tags:.*|---.*?---)$", "", block, flags=re.MULTILINE | re.DOTALL)
        tree = ast.parse(block)
        for name in {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}:
            if re.fullmatch(r"sclm_hf(\.\w+)+", name):
                functools.reduce(getattr, name.split(".")[1:], sclm_hf)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sclm_hf"):
                module = __import__(node.module, fromlist=["*"])
                assert all(hasattr(module, one.name) for one in node.names), ast.unparse(node)


def test_the_first_blocks_of_readme_run(tmp_path, monkeypatch):
    """What somebody without weights types: the checkpoint of the repository, then scanpy, then transformers."""
    from tests.tasks.tiny import make_cells

    monkeypatch.chdir(tmp_path)
    shutil.copytree(MODEL, tmp_path / MODEL.relative_to(ROOT))
    cells = make_cells(40)
    vocabulary = sclm_hf.GeneTokenizer.from_pretrained(str(MODEL)).gene_vocabulary
    cells.var_names = [name for name in vocabulary if not name.startswith("<")][: cells.n_vars]
    cells.write_h5ad("cells.h5ad")
    [first] = re.findall(r"`sclm-hf (embed cells\.h5ad [^`]*)`", README)
    result = CliRunner().invoke(app, shlex.split(first))
    assert result.exit_code == 0, result.output
    python = [block.replace("path/to/checkpoint", str(MODEL)) for block in blocks(README, "python")]
    names = {}
    for block in python[:3]:
        exec(block, names)
    assert {"X_scgpt", "X_umap"} <= set(names["cells"].obsm)
    assert names["model"](**names["batch"]).cell_embedding.shape == (40, 64)
