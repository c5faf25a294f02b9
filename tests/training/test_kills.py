"""A killed or interrupted run, started again, comes to the same losses and weights, bit for bit.

With LoRA, dropout, accumulation, a token budget, two workers and evaluations.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
@pytest.mark.parametrize(("kills", "seed"), [(3, 0), (50, 1)])
def test_runs_that_are_killed_anywhere_replay_to_the_same_bits(tmp_path, kills, seed):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SCLM_NO_PROGRESS": "1"}
    command = [sys.executable, "-m", "tests.training.killed_runs", str(tmp_path), str(kills), str(seed)]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    counts = json.loads(finished.stdout)
    assert counts["kills"] == kills and counts["compared"] >= 1
    assert counts["while_writing"] >= kills // 5
    assert len(counts["interruptions"]) == 2
    assert all("resume with `--resume_from_checkpoint last`" in line for line in counts["interruptions"])
