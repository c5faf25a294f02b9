"""What `denoise` is worth: held-out reads of a donor that a model never saw, simple methods first.

    SCLM_DATA=FOLDER python benchmarks/denoise.py --output benchmarks/results/denoise.json

Lavage of three donors (Liao et al., Nature Medicine 2020): small models (`denoise_<family>.yaml`) are pre-trained on
two, and denoise the third, of whose reads a tenth are held out (molecular cross-validation, as `denoise` scores it
itself). The one of scFoundation was too slow for two cores, and is not in the results. Beside the model stand the
counts that are left, the mean of a gene, and similar cells: the mean of a cell and its nearest neighbours in principal
components. `correlation` is over the cells of the donor, the mean of all genes
that the model reads; `error` is squared, divided by the variance that chance gives a gene, as a multiple of the gene
mean's. The seed is that of training and of what is held out.
"""

import argparse
import json
import os
import tempfile
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
from machine import describe_machine

import sclm_hf
from sclm_hf.errors import SclmWarning
from sclm_hf.training.verbs import pretrain
from sclm_hf.versions import package_versions

FOLDER = Path(__file__).parent
DATA, DONOR, HELD_OUT = "covid_balf_liao.h5ad", "batch", "C146"
FAMILIES = ("cellplm", "scfoundation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=["cellplm"], choices=FAMILIES)
    parser.add_argument("--recipe", type=Path, help="another recipe, for one family")
    parser.add_argument("--name", help="what the results of the recipe are called")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", SclmWarning)
    done = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    done |= {"data": DATA, "held_out": HELD_OUT, "versions": package_versions("torch", "numpy", "scikit-learn")}
    runs = done.setdefault("runs", {})
    for family in arguments.families:
        recipe = arguments.recipe or FOLDER / f"denoise_{family}.yaml"
        for seed in arguments.seeds:
            of_seed = runs.setdefault(arguments.name or family, {})
            if str(seed) not in of_seed:
                of_seed[str(seed)] = run(recipe, seed)
                print(family, seed, of_seed[str(seed)], flush=True)
                arguments.output.write_text(json.dumps(done, indent=1) + "\n")
    done["table"] = {name: means(of_seed) for name, of_seed in runs.items()}
    arguments.output.write_text(json.dumps(done, indent=1) + "\n")
    for name, table in done["table"].items():
        for method, scores in table.items():
            told = ", ".join(
                f"{score} {one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f})" for score, one in scores.items()
            )
            print(f"{name:14}{method:28}{told}")


def run(recipe: Path, seed: int) -> dict:
    """Scores of a model that was trained on the other donors, and of the simple methods."""
    cells = anndata.read_h5ad(Path(os.environ["SCLM_DATA"]) / DATA)
    is_test = (cells.obs[DONOR] == HELD_OUT).to_numpy()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        train, model = Path(folder) / "train.h5ad", Path(folder) / "model"
        cells[~is_test].copy().write_h5ad(train)
        flags = ["--config", str(recipe), "--train_files", str(train), "--output_dir", str(model), "--seed", str(seed)]
        pretrain([*flags, "--batch_column", DONOR])
        seconds = time.process_time() - start
        result = sclm_hf.denoise(cells[is_test].copy(), str(model), seed=seed)
    record = result.uns["sclm_hf"]["sclm_denoised"]
    return {
        "scores": {method: {name: float(one) for name, one in of.items()} for method, of in record["scores"].items()},
        "n_cells": int(is_test.sum()),
        "n_genes": int(record["n_denoised"]),
        "training_cpu_seconds": round(seconds, 1),
        "machine": describe_machine(),
    }


def means(runs: dict[str, dict]) -> dict:
    """Method -> score -> mean, lowest and highest over seeds."""
    table: dict[str, dict] = {}
    for method in next(iter(runs.values()))["scores"]:
        for score in ("correlation", "error"):
            values = [one["scores"][method][score] for one in runs.values()]
            found = {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}
            table.setdefault(method, {})[score] = found
    return table


if __name__ == "__main__":
    main()
