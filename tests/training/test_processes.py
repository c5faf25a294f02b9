import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .h5ad_files import write_h5ad
from .two_processes import main

ROOT = Path(__file__).parents[2]
MODULE = ("-m", "tests.training.two_processes")
TWO = ("-m", "accelerate.commands.launch", "--config_file", str(ROOT / "training_scripts/accelerate/two_cpus.yaml"))


def launch(*command: object) -> str:
    """What a program prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SCLM_NO_PROGRESS": "1"}
    command = [sys.executable, *map(str, command)]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def log(folder):
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]


@pytest.mark.slow
# settings are the steps, the most cells and forward passes a process, and the most tokens
@pytest.mark.parametrize(
    ("one", "two"),
    [
        ((8, 8, 1, 0), (8, 4, 1, 0)),
        ((50, 8, 1, 0), (50, 4, 1, 0)),
        ((50, 12, 4, 300), (50, 12, 2, 300)),
    ],
)
def test_two_processes_equal_one(tmp_path, one, two):
    for seed, name in enumerate(("a", "b", "held_out")):
        write_h5ad(tmp_path / f"{name}.h5ad", 61, seed=seed)
    main(str(tmp_path / "one"), *one)
    printed = launch(*TWO, *MODULE, tmp_path / "two", *two)
    assert printed.count("Training finished") == 1
    one, two = log(tmp_path / "one"), log(tmp_path / "two")
    assert len(one) == len(two) > one[-1]["step"] >= 8
    for a, b in zip(one, two, strict=True):
        for name in ("step", "epoch", "loss", "learning_rate", "eval_loss", "eval_effective_rank"):
            assert a.get(name) == pytest.approx(b.get(name), abs=1e-5)
