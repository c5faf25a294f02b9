"""Whether genes that explain a class are those that it hangs on: deletion and insertion beside a random order.

    SCLM_DATA=../shared/data python benchmarks/explain.py --output benchmarks/results/explain.json

The model is the small scGPT of this repository, which labels cells itself; the cells are of a data set that its
training manifest does not name. Explained is the class that it predicts, whether right or not. Three draws of cells
and orders.
"""

import argparse
import json
import os
from pathlib import Path

import anndata
from machine import describe_machine

from sclm_hf import explain
from sclm_hf.tasks.explain import METHODS
from sclm_hf.versions import package_versions

CHECKPOINT = Path(__file__).parents[1] / "model_cards" / "checkpoints" / "scgpt-blood-small"
DATA = "pbmc_eccite_citefuse_500"
N_GENES = 5


def measure(cells: anndata.AnnData, seed: int, max_cells: int) -> dict:
    """The curves of one draw, and the genes of the highest means that at least 3 cells have."""
    table = explain(cells, CHECKPOINT, methods=",".join(METHODS), max_cells=max_cells, seed=seed)
    best = table.dropna().groupby(["label", "method"], sort=False).head(N_GENES)
    genes = {
        f"{label}, {method}": part["gene"].tolist() for (label, method), part in best.groupby(["label", "method"])
    }
    record = table.attrs["explain"]
    return {
        "seed": seed,
        "n_cells": record["n_cells"],
        "integrated_gradients_gap": record["integrated_gradients_gap"],
        "fractions": table.attrs["fractions"],
        "curves": table.attrs["curves"],
        "genes": genes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("SCLM_DATA"))
    parser.add_argument("--max-cells", type=int, default=25)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    cells = anndata.read_h5ad(Path(arguments.data) / "h5ad" / f"{DATA}.h5ad")
    runs = [measure(cells, seed, arguments.max_cells) for seed in range(3)]
    told = {"machine": describe_machine(), "versions": package_versions("sclm_hf", "torch", "scikit-learn")}
    arguments.output.write_text(json.dumps({**told, "data": DATA, "runs": runs}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
