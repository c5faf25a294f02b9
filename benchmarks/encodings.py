"""How many cells per second the encodings do: `python benchmarks/encodings.py [--shuffled] [--output results.json]`.

Cells have 2,000 expressed genes of 20,000. For each encoding and kind of data it gives these rates:

- `kernel`: values in, bins or ranks out.
- `batches`: CSR rows in, what `CellProcessor.encode` makes of them out, checks, gene ids and padding included, in
  batches of 64.
- `shuffled`, with `--shuffled`: as `batches`, with columns in another order than the vocabulary's, as most data sets
  have them.
- `published`, on one core: the procedure of the paper, one cell at a time, written in numpy from its description.

Each rate is the best of several rounds, so it says what the machine can do, not what it does while others use it;
`load_before` in the results tells whether they did. The goals are for the kernel on two cores.
"""

import argparse
import json
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numba
import numpy as np
import scipy.sparse
from numba import njit

import sclm_hf
from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.tokenization.encodings.bins import bin_cell, bin_scratch
from sclm_hf.tokenization.encodings.rank import rank_cell, rank_scratch

GOALS = {("bins", "counts"): 250_000, ("bins", "reals"): 120_000, ("rank", "counts"): 200_000}

N_CELLS, N_GENES, N_EXPRESSED, BATCH, ROUNDS_PUBLISHED = 256, 20_000, 2_000, 64, 5


def make_cells(kind: str) -> scipy.sparse.csr_matrix:
    """Cells with counts that are mostly ones with a long tail: as they are, log-normalised, or random reals."""
    random = np.random.default_rng(0)
    indices = np.concatenate([np.sort(random.choice(N_GENES, N_EXPRESSED, replace=False)) for _ in range(N_CELLS)])
    values = 1 + random.negative_binomial(0.5, 0.15, (N_CELLS, N_EXPRESSED)).astype(np.float32)
    values[:, 0] = 500
    if kind == "log1p":
        values = np.log1p(values / values.sum(1, keepdims=True) * 10_000)
    elif kind == "reals":
        values = random.lognormal(0, 1, values.shape).astype(np.float32)
    indptr = np.arange(N_CELLS + 1) * N_EXPRESSED
    return scipy.sparse.csr_matrix(
        (values.ravel(), indices.astype(np.int32), indptr.astype(np.int32)), (N_CELLS, N_GENES)
    )


@njit(nogil=True)
def bin_all(values, ties, quantiles, out):
    scratch = bin_scratch(values.shape[1], quantiles.size)
    for i in range(values.shape[0]):
        bin_cell(values[i], values.shape[1], ties, quantiles, True, scratch, out[i])


@njit(nogil=True)
def rank_all(values, totals, ids, factors, out):
    scratch = rank_scratch(values.shape[1])
    for i in range(values.shape[0]):
        out[i] = rank_cell(ids, values[i], values.shape[1], totals[i], 1e4, factors, scratch)


def kernel_of(encoding: str, matrix: scipy.sparse.csr_matrix):
    """A function of a range of cells that runs the kernel alone."""
    values, random = matrix.data.reshape(N_CELLS, N_EXPRESSED).astype(np.float64), np.random.default_rng(1)
    if encoding == "rank":
        out, ids = np.empty(values.shape, np.int32), matrix.indices[:N_EXPRESSED]
        factors = 1 / random.lognormal(0.5, 1, N_GENES)
        totals = values.sum(1)
        return lambda part: rank_all(values[part], totals[part], ids, factors, out[part])
    out, ties = np.empty(values.shape, np.float32), random.random(N_EXPRESSED)
    return lambda part: bin_all(values[part], ties, np.linspace(0, 1, 50), out[part])


def batches_of(encoding: str, matrix: scipy.sparse.csr_matrix, *, shuffled: bool = False):
    """A function of a range of cells that encodes them in batches."""
    names = [f"GENE{i}" for i in range(N_GENES)]
    medians = dict(zip(names, np.random.default_rng(1).lognormal(0.5, 1, N_GENES).tolist(), strict=True))
    parameters = {"gene_medians": medians, "truncation": "head"} if encoding == "rank" else {}
    extractor = ExpressionFeatureExtractor(encoding=encoding, expects="any", **parameters)
    processor = CellProcessor(extractor, GeneTokenizer.from_genes(names))
    columns = np.random.default_rng(2).permutation(names).tolist() if shuffled else names
    gene_ids, cells = processor.map_genes(columns).gene_ids, np.arange(N_CELLS)

    def encode(part: slice) -> None:
        for start in range(part.start, part.stop, BATCH):
            rows = cells[start : start + BATCH]
            processor.encode(matrix, gene_ids, rows=rows, cell_ids=rows)

    return encode


def published_of(encoding: str, matrix: scipy.sparse.csr_matrix):
    """A function of a range of cells that encodes them one by one, as published."""
    values, random = matrix.data.reshape(N_CELLS, N_EXPRESSED), np.random.default_rng(1)
    ids, medians = matrix.indices.reshape(N_CELLS, N_EXPRESSED), random.lognormal(0.5, 1, N_GENES)
    quantiles = np.linspace(0, 1, 50)

    def bins(part: slice) -> None:
        for cell in values[part]:
            edges = np.quantile(cell, quantiles)
            left, right = np.digitize(cell, edges), np.digitize(cell, edges, right=True)
            np.ceil(random.random(cell.size) * (right - left) + left)

    def rank(part: slice) -> None:
        for cell, genes in zip(values[part], ids[part], strict=True):
            genes[np.argsort(-(cell / cell.sum() * 10_000 / medians[genes]), kind="stable")]

    return rank if encoding == "rank" else bins


def rate(work, threads: int, rounds: int) -> int:
    """Cells a second over all cells, shared by threads, in the best round."""
    step = N_CELLS // threads
    parts = [slice(start, start + step) for start in range(0, step * threads, step)]
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds + 1):
            begin = time.perf_counter()
            list(pool.map(work, parts))
            best = min(best, time.perf_counter() - begin)
    return round(step * threads / best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--shuffled", action="store_true", help="also batches of shuffled columns")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "encodings.json")
    arguments = parser.parse_args()
    makers = {"kernel": kernel_of, "batches": batches_of, "published": published_of}
    if arguments.shuffled:
        makers["shuffled"] = partial(batches_of, shuffled=True)
    results, load = [], os.getloadavg()
    for encoding, kind in (("bins", "counts"), ("bins", "log1p"), ("bins", "reals"), ("rank", "counts")):
        matrix = make_cells(kind)
        for what, make in makers.items():
            work = make(encoding, matrix)
            for threads in sorted({1, arguments.threads}) if what != "published" else (1,):
                speed = rate(work, threads, arguments.rounds if what != "published" else ROUNDS_PUBLISHED)
                found = {"encoding": encoding, "data": kind, "what": what, "threads": threads}
                found["cells_per_second"] = speed
                goal = GOALS.get((encoding, kind)) if what == "kernel" and threads == 2 else None
                results.append(found if goal is None else {**found, "goal": goal, "reached": speed >= goal})
                print(f"{encoding:5} {kind:7} {what:9} {threads} thread(s) {speed:>9,} cells/s", flush=True)
    versions = {"sclm_hf": sclm_hf.__version__, "python": platform.python_version(), "numpy": np.__version__}
    report = {
        "genes_per_cell": N_EXPRESSED,
        "versions": {**versions, "numba": numba.__version__},
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine(), "load_before": load[0]},
        "results": results,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
