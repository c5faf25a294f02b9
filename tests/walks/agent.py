"""An agent that reads `sclm-hf skill` and has one file of cells: each command as it stands there, and what it prints.

`python tests/walks/agent.py CELLS.h5ad EMPTY_FOLDER`, from the folder of the repository.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import anndata

MODEL = Path("model_cards/checkpoints/scgpt-blood-small").resolve()

NAMES = {"B": "B cell", "Mono_CD14": "classical monocyte", "NK": "natural killer cell", "T_CD4": "memory CD4 T cell"}
"""Names that the file has, as the model was taught them."""


def main(file: str, output: str) -> None:
    """The walk."""
    folder = Path(output)
    cells = anndata.read_h5ad(file)
    cells[::8].write_h5ad(folder / "cells.h5ad")
    cells[1::8].write_h5ad(folder / "reference.h5ad")
    shutil.copytree(MODEL, folder / "model")
    skill = run(["skill"], folder)
    blocks = re.findall(r"```bash\n(.*?)```", skill, re.DOTALL)
    commands = [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]
    assert len(commands) >= 7
    for command in commands:
        run(command, folder)
    # names of another nomenclature are refused, and the message says what to do
    score = ["--model", "model", "--label-key", "cell_type", "--json"]
    assert "rename the labels" in run(["evaluate", "cells.h5ad", "scored.h5ad", *score], folder, code=1)
    labelled = anndata.read_h5ad(folder / "cells.h5ad")
    labelled.obs["cell_type"] = labelled.obs["cell_type"].astype(str).map(NAMES)
    labelled.write_h5ad(folder / "labelled.h5ad")
    facts = json.loads(run(["evaluate", "labelled.h5ad", "scored.h5ad", *score], folder).splitlines()[-1])
    print(facts["scores"])
    # what is to be mended is said in one message, with exit code 1
    failed = run(["embed", "nothing.h5ad", "out.h5ad", "--model", "model"], folder, code=1)
    assert "`nothing.h5ad` does not exist" in failed


def run(arguments: list[str], folder: Path, code: int = 0) -> str:
    """What the command printed; its error where it fails as expected."""
    root = str(Path.cwd())
    done = subprocess.run(
        [sys.executable, "-m", "sclm_hf.cli.main", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": root, "SCLM_NO_PROGRESS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, f"{arguments}: {done.stderr[-2000:]}"
    print("$ sclm-hf", *arguments, "\n", done.stdout[-1500:], done.stderr[-500:] if code else "")
    return done.stderr if code else done.stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
