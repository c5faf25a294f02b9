"""Somebody who finds a model on the Hub and has not installed this package: a folder that brings its code.

`python tests/walks/hub_visitor.py CELLS.h5ad OUTPUT_FOLDER`, from the folder of the repository. The folder with
code is made as README says, and opened by a process in which `sclm_hf` cannot be imported.
"""

import subprocess
import sys
from pathlib import Path

MODEL = "model_cards/checkpoints/scgpt-blood-small"
VISITOR = """
import sys
sys.modules["sclm_hf"] = None  # not installed
import anndata, torch
from transformers import AutoModel, AutoProcessor
folder, file = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
cells = anndata.read_h5ad(file)[:8].copy()
with torch.no_grad():
    print(model(**processor(cells, return_tensors="pt")).cell_embedding.shape)
"""
WITHOUT_CODE = """
import sys
sys.modules["sclm_hf"] = None
from transformers import AutoModel
AutoModel.from_pretrained(sys.argv[1])
"""


def main(file: str, output: str) -> None:
    """The walk."""
    folder = str(Path(output) / "with_code")
    run(["-m", "sclm_hf.cli.main", "export", "with-code", MODEL, folder])
    told = run(["-c", VISITOR, folder, str(Path(file).resolve())])
    assert "torch.Size([8, 64])" in told, told
    card = (Path(folder) / "README.md").read_text(encoding="utf-8")
    assert "trust_remote_code=True" in card and "pip install" in card
    # without the package and without code, transformers says that it does not know the architecture
    done = subprocess.run([sys.executable, "-c", WITHOUT_CODE, MODEL], capture_output=True, text=True)
    assert done.returncode and "scgpt" in done.stderr, done.stderr[-400:]


def run(arguments: list[str]) -> str:
    """What Python printed, or the end of its error."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    return done.stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
