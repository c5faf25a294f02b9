"""Proteins and peaks predicted from RNA, and both joined, beside simple predictors on the same held-out cells.

    SCLM_DATA=../shared/data python benchmarks/multimodal.py --output benchmarks/results/multimodal.json

The model is the small scGPT of this repository. Its training manifest names the cells of `pbmc_citeseq_400`; `n_seen`
says how many of each data set it was trained on or chosen by. The honest table is that of cells it never saw. Folds
and draws of cells are those of the verb, seeds 0 to 2; numbers are of the first, `gain_by_seed` is of all.
"""

import argparse
import json
import os
from pathlib import Path

import anndata
import numpy as np
from machine import describe_machine

from sclm_hf import multimodal
from sclm_hf.cli.results import plain
from sclm_hf.tasks.multimodal import MULTIMODAL_KEY
from sclm_hf.versions import package_versions

CHECKPOINT = Path(__file__).parents[1] / "model_cards" / "checkpoints" / "scgpt-blood-small"
KEPT = ("kind", "n_seen", "has_manifest", "scores", "neighbour_agreement")


def with_proteins(path: Path) -> tuple[anndata.AnnData, anndata.AnnData, str]:
    """RNA and proteins of one file, without proteins that are 0 in all cells and cells without proteins."""
    cells = anndata.read_h5ad(path)
    table = cells.obsm.pop("protein_counts")
    table = table.loc[table.sum(axis=1) > 0, table.sum() > 0]
    return cells[table.index].copy(), anndata.AnnData(table.astype("float32")), "protein"


def pairs(folder: Path) -> dict[str, tuple]:
    """The data sets."""
    rna, atac = (anndata.read_h5ad(folder / f"snareseq_h1_385_{name}.h5ad") for name in ("rna", "atac"))
    shared = rna.obs_names.intersection(atac.obs_names)
    names = ("pbmc_eccite_citefuse_500", "pbmc_citeseq_400")
    proteins = {name: with_proteins(folder / f"{name}.h5ad") for name in names}
    return {**proteins, "snareseq_h1_385": (rna[shared].copy(), atac[shared].copy(), "atac")}


def measure(rna: anndata.AnnData, other: anndata.AnnData, kind: str) -> dict:
    """The scores of one data set."""
    rna.obs["label"] = rna.obs["cell_type"].astype(object).replace("unassigned", np.nan)
    label = "label" if rna.obs["label"].nunique() > 1 else None
    runs = [
        multimodal(rna, other, str(CHECKPOINT), kind=kind, label_key=label, seed=seed).uns["sclm_hf"][MULTIMODAL_KEY]
        for seed in range(3)
    ]
    gains = {
        str(method): [float(run["scores"]["gain"][row]) for run in runs]
        for row, method in enumerate(runs[0]["scores"]["method"])
    }
    kept = {name: plain(runs[0][name]) for name in KEPT if name in runs[0]}
    return {"n_cells": rna.n_obs, "n_features": len(runs[0]["features"]), **kept, "gain_by_seed": gains}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("SCLM_DATA"))
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    results = {name: measure(*pair) for name, pair in pairs(Path(arguments.data) / "h5ad").items()}
    told = {"machine": describe_machine(), "versions": package_versions("sclm_hf", "torch", "scikit-learn")}
    arguments.output.write_text(json.dumps({**told, "results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
