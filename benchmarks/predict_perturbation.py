"""Unseen CRISPR perturbations predicted by simple methods and by models, each held out once.

    SCLM_DATA=… python benchmarks/predict_perturbation.py --output benchmarks/results/predict_perturbation.json

The data are the THP-1 screen of Papalexi et al. (2021), 25 knock-outs and controls, of which 299 genes are public
here; perturbations whose gene has no features (neighbours in DoRothEA, reduced to 16 numbers) are left out. The others
are divided into folds; each is predicted from the rest, of which models and simple methods see at most `--cells` cells
per perturbation. Models are small and new: there are no weights of scGPT here. Intervals are bootstraps over
perturbations, and differences to the mean are paired. The ceiling is one half of the real cells against the other,
each of half the depth.
"""

import argparse
import importlib.metadata
import json
import os
import tempfile
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse
from machine import describe_machine
from scipy.sparse.linalg import svds

import sclm_hf
from sclm_hf.evaluation.perturbations.scores import score_each
from sclm_hf.evaluation.perturbations.screen import Condition, Screen
from sclm_hf.tasks.predict_perturbation import PredictPerturbationSettings
from sclm_hf.tasks.prediction.reading import read_screen

DATA = "h5ad/perturb_thp1_papalexi_lowmoi.h5ad"
TABLE = "tables/dorothea_hs_ABC.csv.gz"
RECIPES = Path(__file__).parents[1] / "training_scripts" / "recipes"
SIMPLE = ("mean", "additive", "nearest", "linear", "ridge")
MODELS = {
    "set model": ("set", None, "predict_perturbation_set_small.yaml"),
    "scGPT, small, new": ("model", "scgpt", "predict_perturbation_scgpt_small.yaml"),
}
RENAMED = {"MARCH8": "MARCHF8"}
METRICS = ("pearson_delta", "mae", "discrimination")


def gene_features(path: Path, size: int = 16) -> pd.DataFrame:
    """(genes, size) regulators and targets of each gene, reduced by a singular value decomposition."""
    edges = pd.read_csv(path)[["tf", "target"]].astype(str)
    names = sorted({*edges["tf"], *edges["target"]})
    row_of = {name: row for row, name in enumerate(names)}
    place = [edges["tf"].map(row_of), edges["target"].map(row_of)]
    network = scipy.sparse.csr_matrix((np.ones(len(edges)), place), shape=(len(names),) * 2)
    both = scipy.sparse.hstack([network, network.T]).tocsr()
    both = scipy.sparse.diags(1 / np.sqrt(np.asarray(both.sum(axis=1)).ravel())) @ both
    left, values, _ = svds(both, k=size, random_state=0)
    table = pd.DataFrame(left * values, index=names)
    for name, other in RENAMED.items():
        table.loc[name] = table.loc[other]
    return table


def fewer_cells(cells: anndata.AnnData, held_out: list[str], most: int, seed: int) -> anndata.AnnData:
    """The controls, the cells that are held out, and at most `most` cells of each other perturbation."""
    generator, names = np.random.default_rng(seed), cells.obs["perturbation"].astype(str).to_numpy()
    kept = []
    for name in sorted(set(names)):
        rows = np.flatnonzero(names == name)
        whole = name == "control" or name in held_out
        kept.append(rows if whole else generator.permutation(rows)[:most])
    return cells[np.sort(np.concatenate(kept))].copy()


def predicted_shifts(result: anndata.AnnData, names: list[str], control: np.ndarray) -> np.ndarray:
    of = result.obs["perturbation"].astype(str).to_numpy()
    return np.stack([np.asarray(result.X[of == name].mean(axis=0)).ravel() - control for name in names])


def run_fold(cells: anndata.AnnData, names: list[str], features: pd.DataFrame, most: int, fold: int) -> dict:
    """Scores of each method for each held-out perturbation, the spread of its predictions, and seconds."""
    fewer = fewer_cells(cells, names, most, fold)
    settings = {"perturbations": names, "features": features, "seed": fold}
    screen, _ = read_screen(fewer, PredictPerturbationSettings(**settings))
    control = screen.control_mean("all")
    real = np.stack([screen.shift(Condition("all", name)) for name in names])
    predictions, seconds = {"no change": np.zeros_like(real)}, {}
    for method in SIMPLE:
        start = time.perf_counter()
        result = sclm_hf.predict_perturbation(fewer, method=method, **settings)
        seconds[method] = time.perf_counter() - start
        predictions[method] = predicted_shifts(result, names, control)
    for title, (method, model, recipe) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            trained = {"trained": f"{folder}/model", "recipe": RECIPES / recipe}
            result = sclm_hf.predict_perturbation(fewer, model, method=method, n_cells=128, **trained, **settings)
            seconds[title] = time.perf_counter() - start
        predictions[title] = predicted_shifts(result, names, control)
        print(fold, title, f"{seconds[title]:.0f} s", flush=True)
    scores = {method: score_each(shifts, real) for method, shifts in predictions.items()}
    scores["ceiling"] = half_scores(screen, names, fold)
    spread = {name: float(np.sqrt(((x - x.mean(axis=0)) ** 2).mean())) for name, x in predictions.items()}
    measured = float(np.sqrt(((real - real.mean(axis=0)) ** 2).mean()))
    return {
        "perturbations": names,
        "scores": {method: {name: values.tolist() for name, values in of.items()} for method, of in scores.items()},
        "spread": {name: value / measured for name, value in spread.items()},
        "seconds": seconds,
    }


def half_scores(screen: Screen, names: list[str], seed: int) -> dict[str, np.ndarray]:
    """Scores of a random half of the cells of each perturbation and of the controls against the other half."""
    generator = np.random.default_rng(seed)
    rows = [generator.permutation(screen.rows(Condition("all", name))) for name in (screen.control, *names)]
    means = [np.stack([screen.mean(one[half::2]) for one in rows]) for half in range(2)]
    return score_each(*(one[1:] - one[0] for one in means))


def interval(values: np.ndarray, seed: int = 0, draws: int = 2000) -> dict:
    """Mean and 95 % bootstrap interval over perturbations."""
    generator = np.random.default_rng(seed)
    means = values[generator.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def summarise(folds: list[dict]) -> dict:
    """Per method and metric: mean, interval, and the paired difference to the mean of seen perturbations."""
    table = {}
    for method in folds[0]["scores"]:
        row = {"spread": float(np.mean([fold["spread"].get(method, 1.0) for fold in folds]))}
        for metric in METRICS:
            values, of_mean = (
                np.concatenate([fold["scores"][one][metric] for fold in folds]) for one in (method, "mean")
            )
            row[metric] = {**interval(values), "minus_mean": interval(values - of_mean)}
        table[method] = row
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--cells", type=int, default=40)
    arguments = parser.parse_args()
    data = Path(os.environ["SCLM_DATA"])
    machine = describe_machine()
    cells, features = anndata.read_h5ad(data / DATA), gene_features(data / TABLE)
    known = [name for name in cells.obs["perturbation"].astype(str).unique() if name in features.index]
    cells = cells[cells.obs["perturbation"].isin([*known, "control"])].copy()
    drawn = np.random.default_rng(0).permutation(sorted(known))
    folds = []
    for fold, names in enumerate(np.array_split(drawn, arguments.folds)):
        folds.append(run_fold(cells, sorted(names.tolist()), features, arguments.cells, fold))
    table = summarise(folds)
    for method, row in table.items():
        shown = ", ".join(
            f"{metric} {row[metric]['mean']:.3f} ({row[metric]['low']:.3f} to {row[metric]['high']:.3f})"
            for metric in METRICS
        )
        print(f"{method:28} {shown}, spread {row['spread']:.2f}")
    packages = ("torch", "transformers", "scikit-learn", "numpy", "anndata")
    results = {
        "settings": {"folds": arguments.folds, "cells": arguments.cells, "data": DATA, "features": TABLE},
        "machine": machine,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "table": table,
        "folds": folds,
    }
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
