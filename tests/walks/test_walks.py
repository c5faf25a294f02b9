"""What the five who arrive do in their first ten minutes, on real cells: each walk is a script of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CELLS = Path(os.environ.get("SCLM_DATA", ".")) / "h5ad" / "pbmc_3tech_symphony_1200.h5ad"


@pytest.mark.slow
@pytest.mark.skipif(not CELLS.exists(), reason="needs the files that SCLM_DATA points to")
@pytest.mark.parametrize("walk", ["scanpy_user", "transformers_user", "hub_visitor", "agent", "engineer"])
def test_the_walk_is_walked(walk, tmp_path):
    arguments = [str(CELLS.resolve()), *([] if walk == "transformers_user" else [str(tmp_path)])]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, str(HERE / f"{walk}.py"), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
