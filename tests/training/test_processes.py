import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def launch(*command: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SCLM_NO_PROGRESS": "1"}
    finished = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def log(folder):
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]


def test_two_processes_equal_one(tmp_path):
    module = "tests.training.two_processes"
    config = ROOT / "training_scripts" / "accelerate" / "two_cpus.yaml"
    launch("-m", module, str(tmp_path / "one"), "8", "1")
    launch(
        *("-m", "accelerate.commands.launch", "--config_file", str(config)),
        *("-m", module, str(tmp_path / "two"), "4", "1"),
    )
    one, two = log(tmp_path / "one"), log(tmp_path / "two")
    assert len(one) == len(two) > 16
    for a, b in zip(one, two, strict=True):
        for name in ("step", "epoch", "loss", "learning_rate", "eval_loss"):
            assert a.get(name) == pytest.approx(b.get(name), abs=1e-5)
