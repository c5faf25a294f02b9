"""How fast `perturb` is beside an earlier state of this package, on the same cells, one after the other.

    git worktree add ../before 6d3707b
    python benchmarks/perturb.py kang_ifnb_2k.h5ad --before ../before --n-cells 30 --rounds 2 \\
        --output benchmarks/results/perturb.json

Each round runs both in processes of their own, in turn; the time is the processor's, from the first perturbed cell to
the last, without loading; `largest_difference` is that of the results. What is left is the model: every perturbed cell
is a full pass, so that runs on a CPU got 1.3 to 1.7 times as fast, not more.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "model_cards" / "checkpoints" / "scgpt-blood-small"


def run(arguments: argparse.Namespace, into: Path) -> None:
    """Perturb, and write how long it took and what it gave."""
    import anndata
    import torch
    from transformers import AutoModel, AutoProcessor

    from sclm_hf import perturb
    from sclm_hf.tasks.perturbation import perturbing

    torch.set_num_threads(1)
    cells = anndata.read_h5ad(arguments.cells)[: arguments.n_cells].copy()
    model, processor = AutoModel.from_pretrained(CHECKPOINT), AutoProcessor.from_pretrained(CHECKPOINT)
    processor.feature_extractor.truncation = "sample"
    spent = []

    class Timed(perturbing.PerturbationRunner):
        def __call__(self, runs):
            begin = time.process_time()
            yield from super().__call__(runs)
            spent.append(time.process_time() - begin)

    perturb(cells[:2].copy(), model, processor, max_cells=2)
    perturbing.PerturbationRunner = Timed
    result = perturb(cells, model, processor, similarity=arguments.similarity[0])
    np.savez(into, seconds=spent[0], similarities=result.X, n_runs=np.isfinite(result.X).sum())


def measure(arguments: argparse.Namespace, similarity: str, tree: Path) -> tuple[float, np.ndarray, int]:
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "result.npz"
        command = [sys.executable, __file__, str(arguments.cells), "--inside", str(into)]
        command += ["--n-cells", str(arguments.n_cells), "--similarity", similarity]
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "SCLM_NO_PROGRESS": "1"}
        subprocess.run(command, check=True, env=environment, cwd=tree)
        with np.load(into) as found:
            return float(found["seconds"]), found["similarities"], int(found["n_runs"])


def main(arguments: argparse.Namespace) -> dict:
    from machine import describe_machine

    return {
        "benchmark": "perturb",
        "cells": arguments.cells.name,
        "n_cells": arguments.n_cells,
        "machine": describe_machine(),
        "similarity": {similarity: compare(arguments, similarity) for similarity in arguments.similarity},
    }


def compare(arguments: argparse.Namespace, similarity: str) -> dict:
    """Seconds before and now, in turn."""
    seconds: dict[str, list[float]] = {"before": [], "now": []}
    similarities, n_runs = {}, 0
    for _ in range(arguments.rounds):
        for name, tree in (("before", arguments.before.resolve()), ("now", ROOT)):
            spent, similarities[name], n_runs = measure(arguments, similarity, tree)
            seconds[name].append(spent)
    ratios = [before / now for before, now in zip(*seconds.values(), strict=True)]
    return {
        "n_runs": n_runs,
        "seconds": seconds,
        "ratios": ratios,
        "largest_difference": float(np.nanmax(np.abs(similarities["before"] - similarities["now"]))),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path)
    parser.add_argument("--before", type=Path, help="a checkout of the earlier state")
    parser.add_argument("--n-cells", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--similarity", nargs="+", default=["cell", "genes"], choices=["cell", "genes"])
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    given.cells = given.cells.resolve()
    if given.inside:
        run(given, given.inside)
    else:
        report = main(given)
        print(json.dumps(report, indent=2))
        if given.output:
            given.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
