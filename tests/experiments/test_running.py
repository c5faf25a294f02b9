"""Experiments from pieces to pages, with one that takes no time."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sclm_hf.cli.main import make_app
from sclm_hf.errors import ConfigurationError
from sclm_hf.evaluation.plots import plot_lines
from sclm_hf.experiments import EXPERIMENTS, get_experiment
from sclm_hf.experiments import running as module
from sclm_hf.experiments.experiment import Experiment, Page, Table
from sclm_hf.experiments.running import run_experiment

ran = []


def run(piece):
    ran.append((piece.setting, piece.seed))
    return {"value": int(piece.setting) + piece.seed, "size": piece.size.n_cells}


def report(found):
    rows = [[setting, *(str(one["value"]) for one in seeds.values())] for setting, seeds in found.items()]
    figure = plot_lines({("x", "y"): {"line": np.array([[1, 2], [3, 4]])}})[0].figure
    tables = [Table("Values", ["setting", "first", "second"], rows, "Exactly.")]
    return Page(["It adds."], tables, {"values": (figure, "A line.")}, {"a": 1})


TOY = Experiment("toy", "A toy", "Does it add?", ("cells",), ("10", "20"), run, report, ("By hand.",))


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "get_experiment", lambda name: TOY)
    monkeypatch.delenv("SCLM_DATA", raising=False)
    (tmp_path / "data" / "h5ad").mkdir(parents=True)
    (tmp_path / "data" / "h5ad" / "cells.h5ad").touch()
    ran.clear()
    return tmp_path / "data"


def test_a_run_writes_a_page_numbers_and_figures(data, tmp_path):
    page = run_experiment("toy", tmp_path / "out", data=data, seeds=(0, 1)).read_text()
    assert page.startswith("# A toy\n\nDoes it add?\n\n- It adds.\n")
    assert "| setting | first | second |\n| --- | --- | --- |\n| 10 | 10 | 11 |\n| 20 | 20 | 21 |" in page
    assert "![A line.](figures/toy_values.png)" in page and "\n- By hand.\n" in page
    assert (tmp_path / "out" / "figures" / "toy_values.png").stat().st_size
    numbers = json.loads((tmp_path / "out" / "toy.json").read_text())
    assert numbers["numbers"] == {"a": 1} and numbers["seeds"] == [0, 1]


def test_pieces_that_are_there_are_not_run_again(data, tmp_path):
    run_experiment("toy", tmp_path / "out", data=data, seeds=(0,))
    first = (tmp_path / "out" / "toy.json").read_text()
    again = run_experiment("toy", tmp_path / "out", data=data, seeds=(0,))
    assert ran == [("10", 0), ("20", 0)] and (tmp_path / "out" / "toy.json").read_text() == first
    run_experiment("toy", tmp_path / "out", data=data, seeds=(0, 3))
    assert ran[2:] == [("10", 3), ("20", 3)] and "| 10 | 10 | 13 |" in again.read_text()


def test_a_piece_that_failed_leaves_the_others(data, tmp_path, monkeypatch):
    def fail(piece):
        if piece.setting == "20":
            raise RuntimeError("no power")
        return run(piece)

    monkeypatch.setattr(module, "get_experiment", lambda name: Experiment(**{**vars(TOY), "run": fail}))
    with pytest.raises(RuntimeError, match="no power"):
        run_experiment("toy", tmp_path, data=data, seeds=(0,))
    monkeypatch.setattr(module, "get_experiment", lambda name: TOY)
    run_experiment("toy", tmp_path, data=data, seeds=(0,))
    assert ran == [("10", 0), ("20", 0)]


def test_fast_pieces_are_kept_apart_and_the_page_says_what_they_are_worth(data, tmp_path):
    run_experiment("toy", tmp_path, data=data, seeds=(0, 1))
    page = run_experiment("toy", tmp_path, data=data, seeds=(0, 1), fast=True)
    assert len(ran) == 8 and "its numbers mean nothing" in page.read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": ()}, r"`seeds` \(`--seeds`\) must be different numbers"),
        ({"seeds": (1, 1)}, "different numbers"),
        ({"seeds": (-1,)}, "from 0"),
        ({"data": "nowhere"}, r"lacks cells.h5ad, which `toy` reads"),
        ({"data": None}, r"Name with `data` \(`--data`\).*`SCLM_DATA`.*cells.h5ad"),
    ],
)
def test_what_cannot_be_run_is_refused_before_the_work(data, tmp_path, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        run_experiment("toy", tmp_path / "out", **({"data": data} | settings))
    assert not ran and not (tmp_path / "out").exists()


def test_an_unknown_experiment_is_refused():
    with pytest.raises(ConfigurationError, match="no experiment 'magic': expected one of annotation"):
        get_experiment("magic")


def test_the_command_says_what_was_found_and_where(data, tmp_path, monkeypatch):
    monkeypatch.setenv("SCLM_DATA", str(data))
    arguments = ["experiment", "toy", "--output", str(tmp_path / "out"), "--seeds"]
    done = CliRunner().invoke(make_app(), [*arguments, "0,2"])
    assert done.exit_code == 0, done.output
    assert "- It adds." in done.output and "toy.md" in done.output and ran[-1] == ("20", 2)
    refused = CliRunner().invoke(make_app(), [*arguments, "one"])
    assert refused.exit_code == 1 and "whole numbers separated by commas" in refused.output


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_experiment_is_a_record_of_its_file(name):
    one = get_experiment(name)
    assert one.name == name and one.settings and one.methods and one.question.endswith("?")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_experiment_runs_on_little_of_everything(name, tmp_path):
    data = Path(os.environ.get("SCLM_DATA", Path(__file__).parents[2] / "../shared/data"))
    if missing := [one for one in get_experiment(name).datasets if not (data / "h5ad" / f"{one}.h5ad").is_file()]:
        pytest.skip(f"SCLM_DATA: there is no {missing[0]}.h5ad")
    page = run_experiment(name, tmp_path, data=data, seeds=(0, 1), fast=True).read_text()
    assert "nan" not in page.lower().split()
    assert page.count("\n## ") >= 2 and page.count("](figures/") >= 1
