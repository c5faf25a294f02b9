"""Models spread over two processes give what whole ones give, and their layers do not stay whole after they ran."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig

from sclm_hf import FAMILIES

ROOT = Path(__file__).parents[2]
SHARDED = [name for name in FAMILIES if name != "linear"]
SPLIT = [name for name in SHARDED if AutoConfig.for_model(name).base_model_tp_plan]


def spread(folder: Path, families: list[str], kind: str) -> dict[str, list]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "tests.modeling.spread_models", str(folder), ",".join(families), kind]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


@pytest.mark.slow
def test_sharded_models_are_equal_and_free_what_they_gathered(tmp_path):
    for family, (n_whole, n_parameters, difference) in spread(tmp_path, SHARDED, "fsdp_size").items():
        assert difference == 0, family
        # the last norm, and small layers around the encoder, stay
        assert n_whole <= 0.4 * n_parameters, family


@pytest.mark.slow
def test_models_with_divided_heads_are_equal(tmp_path):
    found = spread(tmp_path, SPLIT, "tp_size")
    # the fused projections of GPT-2 are divided by no plan
    assert set(found) == set(SHARDED) - {"tgpt"}
    for family, (_, _, difference) in found.items():
        assert difference < 1e-5, family


def test_every_family_has_a_plan_whose_names_are_its_own():
    for family in SHARDED:
        plan = AutoConfig.for_model(family).base_model_fsdp_plan
        assert "embed_tokens" not in plan and len(plan) >= 2, family
