"""Shards that are killed anywhere, and run again, give the same bytes as one undisturbed run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
@pytest.mark.parametrize(("verb", "n_shards", "seed"), [("embed", 1, 0), ("annotate", 2, 1), ("embed", 4, 2)])
def test_shards_that_are_killed_anywhere_come_to_the_same_bytes(tmp_path, verb, n_shards, seed):
    kills = 20
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SCLM_NO_PROGRESS": "1"}
    command = [sys.executable, "-m", "tests.tasks.files.killed_shards", tmp_path, verb, n_shards, kills, seed]
    finished = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    counts = json.loads(finished.stdout)
    assert counts["kills"] >= kills and counts["merging"] >= 1 and counts["compared"] >= 1
