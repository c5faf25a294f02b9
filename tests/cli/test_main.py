import configparser
import importlib
import re
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


def commands(application):
    """Name -> command of every verb, those of groups too."""
    found = {}
    for name, command in typer.main.get_command(application).commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {verb}": one for verb, one in inner.items()} if inner else {name: command}
    return found


def run_without(module: str, *arguments: str) -> subprocess.CompletedProcess:
    """The command of the package in a process where `module` is not installed."""
    code = f"import sys; sys.modules[{module!r}] = None; sys.argv[0] = 'sclm-hf'; from sclm_hf.cli import run; run()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_the_command_without_its_extra_says_what_to_install(module):
    result = run_without(module, "--help")
    assert result.returncode == 1 and "pip install 'sclm_hf[cli]'" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("verb", ["align", "finetune", "pretrain"])
def test_training_without_its_extra_says_what_to_install(tmp_path, monkeypatch, verb):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    (tmp_path / "cells.h5ad").touch()
    flags = ("--train_files", tmp_path / "cells.h5ad", "--model_name_or_path", tmp_path)
    labels = () if verb == "pretrain" else ("--label_column", "x")
    result = CliRunner().invoke(app, [verb, *map(str, (*flags, *labels))])
    assert result.exit_code == 1 and "pip install 'sclm_hf[train]'" in result.stderr


def run_and_list(modules: set[str], *arguments: str) -> subprocess.CompletedProcess:
    """The command in a process that ends its output with those of `modules` that it imported."""
    code = (
        f"import atexit, sys; sys.argv[0] = 'sclm-hf'; atexit.register(lambda: print({modules} & set(sys.modules)))\n"
        "from sclm_hf.cli import run; run()"
    )
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("verb", ["align", "finetune", "pretrain"])
def test_the_help_of_training_imports_nothing_heavy(verb):
    result = run_and_list({"accelerate", "numba", "numpy", "torch", "transformers"}, verb, "--help")
    assert "--output_dir" in result.stdout and result.stdout.endswith("set()\n"), result.stderr


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), "required: --train_files"),
        (("--train_files", "absent.h5ad"), "`absent.h5ad` does not exist"),
        (("--train_files", __file__), "`./absent` is not a checkpoint folder or repository"),
        (("--train_files", __file__, "--max_step", "1"), "Did you mean `--max_steps`"),
    ],
)
def test_what_is_missing_is_told_before_torch_is_imported(flags, told):
    model = ("--model_name_or_path", "./absent", "--label_column", "cell_type") if flags else ()
    result = run_and_list({"torch", "transformers"}, "finetune", *flags, *model)
    assert told in result.stderr and result.returncode in (1, 2)
    assert result.stdout == "set()\n"


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
    running = {*(name.replace("_", "-") for name in verb_names()), "chat", "estimate"}
    assert shared["layer"] == {*running, "corpus build", "corpus info", "gene-embeddings"}
    assert shared["device"] == running
    assert shared["seed"] == {*running, "corpus build", "fit"}
    for name, where in shared.items():
        assert len({(verbs[verb][name].help, verbs[verb][name].default) for verb in where}) == 1, name


@pytest.mark.parametrize("verb", sorted(commands(app)))
def test_help_keeps_what_stands_in_brackets(verb):
    result = CliRunner().invoke(app, [*verb.split(), "--help"], env={"COLUMNS": "10000", "TERMINAL_WIDTH": "10000"})
    assert result.exit_code == 0 and "pip install 'sclm_hf'" not in result.output
    command = commands(app)[verb]
    texts = [" ".join((one.help or "").split()) for one in (command, *command.params) if hasattr(one, "help")]
    shown = " ".join(result.output.split())
    for extra in re.findall(r"\w+\\\[\w+\]", " ".join(texts)):
        assert extra.replace("\\", "") in shown


def test_the_help_of_integrate_names_its_extra():
    result = CliRunner().invoke(app, ["integrate", "--help"], env={"COLUMNS": "10000", "TERMINAL_WIDTH": "10000"})
    assert "pip install 'sclm_hf[integration]'" in result.output
