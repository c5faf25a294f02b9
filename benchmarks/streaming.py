"""How fast cells stream, how soon they come, and how much memory that takes.

    python benchmarks/streaming.py --corpus FOLDER

Any folder of .h5ad files with raw counts will do; the goals are meant for 40,000 cells in two files and two quiet
cores, the page cache warm. Larger corpora are the same files under more names: ten times as many cells for the rates
and the memory, 1,000 files for the first batch and for resuming. What is measured:

- batches: shuffled, tokenised, padded, without workers and from one worker. Rates are the best of `--repeats` and
  count from the first batch on, because starting a process takes as long as 10,000 cells; `cpu` rates are per second
  of CPU time of this process, which a busy machine disturbs less. The consumer does nothing with the batches.
- raw: the rows of every window as CSR, in the order of the corpus's plan.
- first batch, resuming: seconds from the paths to a batch of a lazy corpus, in a process that has compiled already.
- memory: peak of a process of its own that streams the corpus once, and ten times the corpus.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from sclm_hf import CellCorpus, CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.sources.opening import name_paths, open_source

PACKAGES = ("sclm_hf", "numpy", "scipy", "numba", "h5py", "torch")

GOALS = {
    "bins_1_worker_cells_per_s": (150_000, "at least"),
    "rank_1_worker_cells_per_s": (100_000, "at least"),
    "memory_growth_mb": (100, "at most"),
    "first_batch_of_1000_files_s": (2.0, "at most"),
    "resume_at_90_percent_s": (2.0, "at most"),
}

Paths = Mapping[str, Path]


def make_processor(folder: Path, encoding: str, max_length: int) -> CellProcessor:
    names, _ = open_source("first", next(iter(name_paths(folder).values()))).genes()
    # As Geneformer ranks: by counts over each gene's median, here drawn at random.
    medians = dict(zip(names, np.random.default_rng(0).lognormal(size=len(names)).tolist(), strict=True))
    ranks = {"truncation": "head", "gene_medians": medians} if encoding == "rank" else {}
    extractor = ExpressionFeatureExtractor(encoding=encoding, max_length=max_length, **ranks)
    return CellProcessor(extractor, GeneTokenizer.from_genes(names))


def repeated(folder: Path, n_files: int) -> Paths:
    """The files of a folder again and again, under names of their own."""
    files = islice(cycle(name_paths(folder).items()), n_files)
    return {f"{name}_{number}": path for number, (name, path) in enumerate(files)}


def rates(batches: Iterable[dict], field: str = "input_ids") -> tuple[float, float]:
    """Cells per second of wall time and of CPU time, from the first batch on."""
    batches = iter(batches)
    next(batches)
    wall, cpu, n_cells = time.perf_counter(), time.process_time(), 0
    for batch in batches:
        n_cells += len(batch[field])
    return n_cells / (time.perf_counter() - wall), n_cells / (time.process_time() - cpu)


def raw_batches(corpus: CellCorpus, epoch: int) -> Iterable[dict]:
    """The rows of every window as CSR, in the order of the corpus's plan."""
    plan = corpus.plan(corpus.window_size, epoch)
    for window in range(plan.n_windows):
        rows: dict[int, list[np.ndarray]] = {}
        for source, start, stop in plan.window(window):
            rows.setdefault(source, []).append(np.arange(start, stop))
        for source, parts in rows.items():
            yield {"rows": range(corpus.opened(source).read(np.concatenate(parts)).shape[0])}


def first_batch(paths: Paths, processor: CellProcessor, batch_size: int, **kwargs: int) -> float:
    """Seconds from the paths to a batch."""
    begin = time.perf_counter()
    next(CellCorpus(paths, processor, lazy=True).batches(batch_size, **kwargs))
    return time.perf_counter() - begin


def peak_memory(paths: Paths, folder: Path, batch_size: int, max_length: int) -> float:
    """Megabytes that a process takes at most while it streams an epoch; needs Linux."""
    for _ in CellCorpus(paths, make_processor(folder, "bins", max_length)).batches(batch_size):
        pass
    # `getrusage` would count what the parent process took when it started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def memory_results(arguments: argparse.Namespace) -> dict[str, int]:
    files, peaks = len(name_paths(arguments.corpus)), []
    sizes = (arguments.batch_size, arguments.max_length)
    for times in (1, 10):
        paths = repeated(arguments.corpus, files * times)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            peaks.append(pool.submit(peak_memory, paths, arguments.corpus, *sizes).result())
    return {
        "memory_mb": round(peaks[0]),
        "memory_10_times_mb": round(peaks[1]),
        "memory_growth_mb": round(peaks[1] - peaks[0]),
    }


def rate_results(arguments: argparse.Namespace) -> dict[str, int]:
    results: dict[str, int] = {}
    size, epochs = arguments.batch_size, range(arguments.repeats)
    paths = repeated(arguments.corpus, 10 * len(name_paths(arguments.corpus)))
    for encoding in ("bins", "rank"):
        corpus = CellCorpus(paths, make_processor(arguments.corpus, encoding, arguments.max_length))
        for workers in arguments.workers:
            found = [rates(corpus.loader(size, num_workers=workers, epoch=epoch)) for epoch in epochs]
            results[f"{encoding}_{workers}_worker_cells_per_s"] = round(max(wall for wall, _ in found))
            if not workers:
                results[f"{encoding}_cpu_cells_per_s"] = round(max(cpu for _, cpu in found))
    found = [rates(raw_batches(corpus, epoch), "rows") for epoch in epochs]
    results["raw_cells_per_s"] = round(max(wall for wall, _ in found))
    results["cells"] = len(corpus)
    return results


def start_results(arguments: argparse.Namespace) -> dict[str, float]:
    size, paths = arguments.batch_size, repeated(arguments.corpus, 1000)
    processor = make_processor(arguments.corpus, "bins", arguments.max_length)
    n_cells = len(CellCorpus(paths, processor, lazy=True))
    late = int(n_cells * 0.9) // size * size
    starts = {"first_batch_of_1000_files_s": 0, "resume_at_90_percent_s": late}
    return {
        name: round(min(first_batch(paths, processor, size, start=start) for _ in range(arguments.repeats)), 3)
        for name, start in starts.items()
    }


def judged(results: Mapping[str, float]) -> dict[str, dict]:
    """Each goal with what was measured and whether it is reached."""
    verdicts = {}
    for name, (goal, sense) in GOALS.items():
        if name in results:
            reached = results[name] >= goal if sense == "at least" else results[name] <= goal
            verdicts[name] = {"goal": goal, "sense": sense, "measured": results[name], "reached": reached}
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of .h5ad files")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "streaming.json")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    results = {**rate_results(arguments), **start_results(arguments), **memory_results(arguments)}
    report = {
        "results": results,
        "goals": judged(results),
        "settings": {"batch_size": arguments.batch_size, "max_length": arguments.max_length},
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine(), "load_before": load},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
