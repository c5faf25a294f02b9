import configparser
import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sclm_hf.cli import show_warnings_as_lines
from sclm_hf.cli.main import app
from sclm_hf.logging import warn
from sclm_hf.tasks import verb_names


def run_without(module: str, *arguments: str) -> subprocess.CompletedProcess:
    """The command of the package in a process where `module` is not installed."""
    code = f"import sys; sys.modules[{module!r}] = None; sys.argv[0] = 'sclm-hf'; from sclm_hf.cli import run; run()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_the_command_without_its_extra_says_what_to_install(module):
    result = run_without(module, "--help")
    assert result.returncode == 1 and "pip install 'sclm_hf[cli]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_training_without_its_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    for verb in ("align", "pretrain", "finetune"):
        result = CliRunner().invoke(app, [verb, "--help"])
        assert result.exit_code == 1 and "pip install 'sclm_hf[train]'" in result.stderr


def test_the_command_that_is_installed_lists_all_verbs():
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    module, name = config["options.entry_points"]["console_scripts"].split("=")[1].strip().split(":")
    assert callable(getattr(importlib.import_module(module), name))
    result = run_without("torch", "--help")
    assert result.returncode == 0, result.stderr
    for verb in (
        "align",
        "annotate",
        "card",
        "convert",
        "corpus",
        "embed",
        "evaluate",
        "finetune",
        "pretrain",
        "push",
    ):
        assert verb in result.stdout


def test_warnings_are_lines_without_code(capsys):
    others = []
    with warnings.catch_warnings(action="always"):
        warnings.showwarning = lambda message, *place: others.append(str(message))
        show_warnings_as_lines()
        warn("look at this")
        warnings.warn("theirs", UserWarning, stacklevel=1)
    assert (capsys.readouterr().err, others) == ("Warning: look at this\n", ["theirs"])


def test_shared_options_read_the_same_in_every_verb():
    verbs = {verb: {option.name: option for option in command.params} for verb, command in commands(app).items()}
    shared = {name: {verb for verb in verbs if name in verbs[verb]} for name in ("layer", "species", "device", "seed")}
    running = {*verb_names(), "chat"}
    assert shared["layer"] == {*running, "corpus build", "corpus info", "gene-embeddings"}
    assert shared["device"] == running
    assert shared["seed"] == {*running, "corpus build"}
    for name, where in shared.items():
        assert len({(verbs[verb][name].help, verbs[verb][name].default) for verb in where}) == 1, name


def commands(application):
    """Name -> command of every verb, those of groups too."""
    found = {}
    for name, command in typer.main.get_command(application).commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {verb}": one for verb, one in inner.items()} if inner else {name: command}
    return found
