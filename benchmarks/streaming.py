"""How fast cells stream: raw rows, and tokenised, shuffled, padded batches; first batch; resuming; memory.

    python benchmarks/streaming.py --corpus FOLDER

Any folder of .h5ad files with raw counts will do. Every figure is the best of `--repeats` runs over a whole epoch, the
page cache warm and the consumer idle; rates are per second of wall time, `cpu_` rates per second of this process's CPU
time, which a busy machine disturbs less. The first batch is that of a lazy corpus, in a process that has compiled the
kernels already. Memory is the peak of the process. The results go to `benchmarks/results/streaming.json`.
"""

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from sclm_hf import CellCorpus, CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.corpora.plan import EpochPlan
from sclm_hf.corpora.sources import name_paths, open_source

PACKAGES = ("sclm_hf", "numpy", "scipy", "numba", "h5py", "torch")


def make_processor(folder: Path, encoding: str, max_length: int) -> CellProcessor:
    names, _ = open_source("first", next(iter(name_paths(folder).values()))).genes()
    ranks = {"truncation": "head"} if encoding == "rank" else {}
    extractor = ExpressionFeatureExtractor(encoding=encoding, max_length=max_length, **ranks)
    return CellProcessor(extractor, GeneTokenizer.from_genes(names))


def rates(batches: Iterable[dict]) -> tuple[float, float]:
    """Cells per second of wall time and of CPU time."""
    wall, cpu, n_cells = time.perf_counter(), time.process_time(), 0
    for batch in batches:
        n_cells += len(batch["input_ids"])
    return n_cells / (time.perf_counter() - wall), n_cells / (time.process_time() - cpu)


def raw_batches(corpus: CellCorpus, epoch: int) -> Iterable[dict]:
    """The rows of every window as CSR, in the order of the corpus's plan."""
    names = [source.name for source in corpus.sources]
    sizes = {"block_size": corpus.block_size, "window_size": corpus.window_size}
    plan = EpochPlan(names, corpus.sizes, seed=corpus.seed, epoch=epoch, **sizes)
    for window in range(plan.n_windows):
        rows: dict[int, list[np.ndarray]] = {}
        for source, start, stop in plan.window(window):
            rows.setdefault(source, []).append(np.arange(start, stop))
        for source, parts in rows.items():
            yield {"input_ids": range(corpus.sources[source].read(np.concatenate(parts)).shape[0])}


def first_batch(folder: Path, processor: CellProcessor, batch_size: int, **kwargs: int) -> float:
    """Seconds from the paths to a batch."""
    begin = time.perf_counter()
    next(CellCorpus(folder, processor, lazy=True).batches(batch_size, **kwargs))
    return time.perf_counter() - begin


def measure(arguments: argparse.Namespace) -> dict:
    results: dict[str, float] = {}

    def best(name: str, measured: list[tuple[float, float]]) -> None:
        results[name], results[f"cpu_{name}"] = (round(max(column)) for column in zip(*measured, strict=True))

    size, repeats = arguments.batch_size, range(arguments.repeats)
    for encoding in ("bins", "rank"):
        processor = make_processor(arguments.corpus, encoding, arguments.max_length)
        corpus = CellCorpus(arguments.corpus, processor)
        next(corpus.batches(size))  # compiles
        best(f"{encoding}_cells_per_s", [rates(corpus.batches(size, epoch=epoch)) for epoch in repeats])
        for workers in arguments.workers:
            measured = [rates(corpus.loader(size, num_workers=workers, epoch=epoch))[0] for epoch in repeats]
            results[f"{encoding}_{workers}_workers_cells_per_s"] = round(max(measured))
    best("raw_cells_per_s", [rates(raw_batches(corpus, epoch)) for epoch in repeats])
    late = int(len(corpus) * 0.9) // size * size
    results["first_batch_s"] = round(min(first_batch(arguments.corpus, processor, size) for _ in repeats), 3)
    results["resume_at_90_percent_s"] = round(
        min(first_batch(arguments.corpus, processor, size, start=late) for _ in repeats), 3
    )
    results["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return {"cells": len(corpus), "files": len(corpus.sources), **results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of .h5ad files")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "streaming.json")
    arguments = parser.parse_args()
    results = {
        "results": measure(arguments),
        "settings": {"batch_size": arguments.batch_size, "max_length": arguments.max_length},
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
