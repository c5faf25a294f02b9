"""What a wheel of the package must do in a fresh environment, under every Python that is supported.

    python -m build --wheel            # or: pip wheel --no-deps --wheel-dir dist .
    python3.12 -m venv fresh && fresh/bin/pip install "dist/sclm_hf-…whl[all]"
    fresh/bin/python benchmarks/smoke.py --output benchmarks/results/smoke_3.12.json

Run outside of the checkout's folder, or the checkout itself is tested. It makes tiny checkpoints of all families,
embeds, annotates and perturbs through the functions and the command, builds and reads a corpus, fine-tunes a LoRA and
uses it, and writes versions and what was done.
"""

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse

import sclm_hf
from sclm_hf.opening.tiny import LABELS, make_tiny_checkpoint
from sclm_hf.registry import FAMILIES

PACKAGES = ("sclm_hf", "torch", "transformers", "peft", "accelerate", "datasets", "anndata", "zarr", "numpy", "numba")
GENES = "B2M CD14 CD19 CD3D CD3E CD4 CD74 CST3 FCN1 FTH1 FTL GNLY HLA-A HLA-B LYZ MALAT1 MS4A1 NKG7 S100A8 S100A9"


def make_cells() -> anndata.AnnData:
    generator, genes = np.random.default_rng(0), GENES.split()
    counts = generator.poisson(2.0, (60, len(genes))).astype("float32") + 1
    obs = pd.DataFrame({"cell_type": generator.choice(LABELS, 60)}, index=[f"cell{number}" for number in range(60)])
    return anndata.AnnData(scipy.sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=genes))


def command(*arguments: str | Path) -> None:
    subprocess.run([Path(sys.executable).with_name("sclm-hf"), *map(str, arguments)], check=True, capture_output=True)


def run(folder: Path) -> list[str]:
    """Everything once; what was done."""
    cells, done = make_cells(), []
    cells.write_h5ad(folder / "cells.h5ad")
    for family in FAMILIES:
        model = make_tiny_checkpoint(family, folder / family, genes=GENES.split())
        assert np.isfinite(sclm_hf.embed(cells, model).obsm[f"X_{family}"]).all()
        done.append(f"embed {family}")
    command("embed", folder / "cells.h5ad", folder / "embedded.h5ad", "--model", folder / "scgpt")
    assert "X_scgpt" in anndata.read_h5ad(folder / "embedded.h5ad").obsm
    command("corpus", "build", folder / "cells.h5ad", folder / "shards", "--obs-column", "cell_type")
    command("corpus", "check", folder / "shards")
    settings = ["--label_column", "cell_type", "--model_name_or_path", folder / "geneformer", "--max_steps", "2"]
    command("finetune", "--train_files", folder / "shards", "--output_dir", folder / "tuned", *settings, "--use_cpu")
    command("annotate", folder / "cells.h5ad", folder / "named.h5ad", "--model", folder / "tuned" / "adapter")
    assert set(anndata.read_h5ad(folder / "named.h5ad").obs["sclm_prediction"]) <= set(LABELS)
    return [
        *done,
        "sclm-hf embed",
        "sclm-hf corpus build",
        "sclm-hf corpus check",
        "sclm-hf finetune",
        "sclm-hf annotate",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        done = run(Path(folder))
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    text = json.dumps({"python": platform.python_version(), "versions": versions, "done": done}, indent=1)
    print(text)
    if output:
        output.write_text(text + "\n")


if __name__ == "__main__":
    main()
