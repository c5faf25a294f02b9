"""Malformed inputs end in one of our errors, or do no harm."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .attack import GOOD


def outcomes(tmp_path: Path, count: int, seed: int) -> list[dict]:
    """Attacks in a process without threads, which can be forked."""
    table = tmp_path / "table.json"
    settings = ["--count", str(count), "--seed", str(seed), "--output", str(table)]
    command = [sys.executable, "-m", "tests.malformed.attack", *settings]
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(table.read_text())


@pytest.mark.parametrize("count", [30, pytest.param(600, marks=pytest.mark.slow)])
def test_malformed_inputs_are_refused_clearly_or_do_no_harm(tmp_path, count):
    found = outcomes(tmp_path, count, seed=0)
    bad = [outcome for outcome in found if outcome["outcome"] not in GOOD]
    print(Counter(outcome["outcome"] for outcome in found))
    assert len(found) == count
    assert not bad, json.dumps(bad, indent=1)
