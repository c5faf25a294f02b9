"""How fast `perturb` is beside one gene of one cell at a time, and beside an earlier state of this package.

    git worktree add ../before 6d3707b
    python benchmarks/perturb.py kang_ifnb_2k.h5ad --before ../before --n-cells 30 --rounds 2 \\
        --output benchmarks/results/perturb.json

Ways, on the same cells, in processes of their own and in turn: `now`; `before`, the earlier state; `one by one`, the
same with a batch of one cell, so that the model is called for each deletion; and `embed`, what one would do without
the verb: cells without one gene are embedded one after the other, the first `--n-embedded` deletions of them, scaled
up to all. Times are the processor's, of one thread, from the first perturbed cell to the last, without loading;
`largest_difference` is that of the results.

Deletions of a cell share the embeddings of its genes and the attention of the first layer, of which that without one
gene is a difference (`modeling/common/attention/without_one.py`); what comes behind it is each one's own. The
checkpoint has two layers: with twelve, less is shared. `results/perturb.json` is of an earlier state, which shared
nothing, beside one before it.
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

    from sclm_hf import ScGPTModel, perturb
    from sclm_hf.tasks.perturbation import perturbing

    torch.set_num_threads(1)
    if arguments.batch_size == 1:
        # a whole call of the model for each deletion
        del ScGPTModel.embed_without_one
        ScGPTModel.embeds_cells_alone = False
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
    result = perturb(cells, model, processor, similarity=arguments.similarity[0], batch_size=arguments.batch_size)
    n_runs = int(np.isfinite(result.X).sum())
    if arguments.n_embedded:
        spent = [n_runs / arguments.n_embedded * embed_without(cells, result, model, processor, arguments.n_embedded)]
    np.savez(into, seconds=sum(spent), similarities=result.X, n_runs=n_runs)


def embed_without(cells, result, model, processor, number: int) -> float:
    """Seconds to embed cells without one gene each, for the first deletions of a result."""
    from sclm_hf import embed

    rows, columns = np.nonzero(np.isfinite(result.X))
    begin = time.process_time()
    for row, column in zip(rows[:number], columns[:number], strict=True):
        one = cells[result.obs_names[row]].copy()
        embed(one[:, one.var_names != result.var_names[column]].copy(), model, processor)
    return time.process_time() - begin


def measure(
    arguments: argparse.Namespace, similarity: str, tree: Path, batch_size: int, n_embedded: int
) -> tuple[float, np.ndarray, int]:
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "result.npz"
        command = [sys.executable, __file__, str(arguments.cells), "--inside", str(into)]
        command += ["--batch-size", str(batch_size), "--n-embedded", str(n_embedded)]
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
    """Seconds of each way, in turn."""
    ways = {"one by one": (ROOT, 1, 0), "embed": (ROOT, 64, arguments.n_embedded), "now": (ROOT, 64, 0)}
    if arguments.before is not None:
        ways["before"] = (arguments.before.resolve(), 64, 0)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    similarities, n_runs = {}, 0
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            spent, similarities[name], n_runs = measure(arguments, similarity, *way)
            seconds[name].append(spent)
    now = similarities.pop("now")
    return {
        "n_runs": n_runs,
        "seconds": seconds,
        "ratios": {
            name: [other / own for other, own in zip(seconds[name], seconds["now"], strict=True)]
            for name in similarities
        },
        "largest_difference": {name: float(np.nanmax(np.abs(one - now))) for name, one in similarities.items()},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path)
    parser.add_argument("--before", type=Path, help="a checkout of the earlier state")
    parser.add_argument("--n-cells", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--similarity", nargs="+", default=["cell", "genes"], choices=["cell", "genes"])
    parser.add_argument("--n-embedded", type=int, default=60, help="deletions that are embedded one after the other")
    parser.add_argument("--batch-size", type=int, default=64, help=argparse.SUPPRESS)
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
