"""How fast cells stream, how soon they come, how much memory that takes, and how fast annbatch and scDataset are.

    python benchmarks/streaming.py --corpus FOLDER [--annbatch PYTHON] [--scdataset PYTHON]

Any folder of .h5ad files with raw counts will do; the goals are meant for 40,000 cells in two files and two quiet
cores, the page cache warm. Larger corpora are the same files under more names: ten times as many cells for the rates
and the memory, 1,000 files for the first batch and for resuming. What is measured (`--parts`):

- batches: shuffled, tokenised, padded, without workers and from one worker, in narrow types, as the training loop
  takes them and widens them on its device; `wide` rates are those of batches that are widened on the CPU. Rates are
  the best of `--repeats` and count from the first batch on, because starting a process takes as long as 10,000 cells;
  `cpu` rates are per second of CPU time of this process and its workers, their start included, which a busy machine
  disturbs less. The consumer does nothing with the batches.
- objectives: the same with the collators that training streams through.
- peers: shuffled batches of raw rows as CSR, ours and those of annbatch and scDataset, by turns, over the folder as it
  is and in one process each. The peers run in environments of their own, whose interpreters are options
  (`annbatch[zarrs]` under Python 3.12; `scdataset`, `anndata` and `torch`); annbatch converts the files first, to a
  folder beside theirs.
- starts: seconds from the paths to a batch of a lazy corpus, in a process that has compiled already.
- memory: peak of a process of its own that streams the corpus once, and ten times the corpus.
"""

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from machine import describe_machine

from sclm_hf import CellCorpus, CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.objectives.generative_expression import GenerativeExpressionCollator
from sclm_hf.objectives.masked_expression import MaskedExpressionCollator
from sclm_hf.objectives.masked_genes import MaskedGenesCollator
from sclm_hf.objectives.next_gene import NextGeneCollator
from sclm_hf.sources.opening import name_paths, open_source
from sclm_hf.tokenization.genes.gene_vocabulary import SPECIAL_TOKENS

PACKAGES = ("sclm_hf", "numpy", "scipy", "numba", "h5py", "torch")

OBJECTIVES = {
    "bins": (GenerativeExpressionCollator, MaskedExpressionCollator),
    "rank": (MaskedGenesCollator, NextGeneCollator),
}

GOALS = {
    "bins_1_worker_cells_per_s": (120_000, "at least"),
    "rank_1_worker_cells_per_s": (120_000, "at least"),
    "bins_generative_expression_1_worker_cells_per_s": (60_000, "at least"),
    "bins_masked_expression_1_worker_cells_per_s": (60_000, "at least"),
    "rank_masked_genes_1_worker_cells_per_s": (60_000, "at least"),
    "rank_next_gene_1_worker_cells_per_s": (60_000, "at least"),
    "raw_times_annbatch": (3, "at least"),
    "raw_times_scdataset": (18, "at least"),
    "memory_growth_mb": (100, "at most"),
    "first_batch_of_1000_files_s": (2.0, "at most"),
    "resume_at_90_percent_s": (2.0, "at most"),
}

Paths = Mapping[str, Path]


def make_processor(folder: Path, encoding: str, max_length: int) -> CellProcessor:
    names, _ = open_source("first", next(iter(name_paths(folder).values()))).genes()
    # as Geneformer ranks: by counts over each gene's median, here drawn at random
    medians = dict(zip(names, np.random.default_rng(0).lognormal(size=len(names)).tolist(), strict=True))
    ranks = {"truncation": "head", "gene_medians": medians} if encoding == "rank" else {}
    extractor = ExpressionFeatureExtractor(encoding=encoding, max_length=max_length, **ranks)
    return CellProcessor(extractor, GeneTokenizer.from_genes(names, special_tokens=(*SPECIAL_TOKENS, "<mask>")))


def repeated(folder: Path, n_files: int) -> Paths:
    """The files of a folder again and again, under names of their own."""
    files = islice(cycle(name_paths(folder).items()), n_files)
    return {f"{name}_{number}": path for number, (name, path) in enumerate(files)}


def rates(batches: Iterable[dict]) -> tuple[float, float]:
    """Cells per second of wall time, from the first batch on, and of CPU time, of all batches."""
    cpu, batches = cpu_seconds(), iter(batches)
    n_first = len(next(batches)["input_ids"])
    wall = time.perf_counter()
    n_cells = sum(len(batch["input_ids"]) for batch in batches)
    return n_cells / (time.perf_counter() - wall), (n_first + n_cells) / (cpu_seconds() - cpu)


def cpu_seconds() -> float:
    """Seconds of CPU time of this process, and of its workers that have ended."""
    return sum(os.times()[:4])


def raw_rate(corpus: CellCorpus, epoch: int, batch_size: int) -> float:
    """Cells per second of an epoch of rows as they are stored."""
    begin = time.perf_counter()
    n_cells = sum(len(batch.rows) for batch in corpus.matrix_batches(batch_size, epoch=epoch))
    return n_cells / (time.perf_counter() - begin)


def peer_rate(peer: str, python: str, *arguments: Path | int) -> float:
    """Cells per second of another package, measured in its own environment."""
    script = Path(__file__).with_name(f"peer_{peer}.py")
    # a number of threads that was set for us is none of its business
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "PYTHONPATH")}
    command = [python, script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["cells_per_s"]


def first_batch(paths: Paths, processor: CellProcessor, batch_size: int, **kwargs: int) -> float:
    """Seconds from the paths to a batch."""
    begin = time.perf_counter()
    next(CellCorpus(paths, processor, lazy=True).batches(batch_size, **kwargs))
    return time.perf_counter() - begin


def peak_memory(paths: Paths, folder: Path, batch_size: int, max_length: int) -> float:
    """Megabytes that a process takes at most while it streams an epoch; needs Linux."""
    for _ in CellCorpus(paths, make_processor(folder, "bins", max_length)).batches(batch_size):
        pass
    # `getrusage` would count what the parent process took when it started this one
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


def loader_results(name: str, corpus: CellCorpus, collator, arguments: argparse.Namespace) -> dict[str, int]:
    """The best rates of a corpus with a collator, for every number of workers, in both kinds of types."""
    results: dict[str, int] = {}
    for workers in arguments.workers:
        found: dict[str, list[tuple[float, float]]] = {"": [], "wide_": []}
        for epoch in range(arguments.repeats):
            loader = corpus.loader(arguments.batch_size, collator=collator, num_workers=workers, epoch=epoch)
            found[""].append(rates(loader.narrow()))
            found["wide_"].append(rates(loader))
        for kind, pairs in found.items():
            results[f"{name}_{workers}_worker_{kind}cells_per_s"] = round(max(wall for wall, _ in pairs))
            results[f"{name}_{workers}_worker_{kind}cpu_cells_per_s"] = round(max(cpu for _, cpu in pairs))
    return results


def batch_results(arguments: argparse.Namespace) -> dict[str, int]:
    results: dict[str, int] = {}
    paths = repeated(arguments.corpus, arguments.times * len(name_paths(arguments.corpus)))
    for encoding in OBJECTIVES:
        corpus = CellCorpus(paths, make_processor(arguments.corpus, encoding, arguments.max_length))
        results |= loader_results(encoding, corpus, None, arguments)
    return results | {"cells": len(corpus)}


def objective_results(arguments: argparse.Namespace) -> dict[str, int]:
    results: dict[str, int] = {}
    paths = repeated(arguments.corpus, arguments.times * len(name_paths(arguments.corpus)))
    for encoding, collators in OBJECTIVES.items():
        processor = make_processor(arguments.corpus, encoding, arguments.max_length)
        corpus = CellCorpus(paths, processor)
        for collator in collators:
            objective = collator.__module__.rpartition(".")[2]
            results |= loader_results(f"{encoding}_{objective}", corpus, collator.from_processor(processor), arguments)
    return results


def peer_results(arguments: argparse.Namespace) -> dict[str, float]:
    size, folder = arguments.batch_size, arguments.corpus.resolve()
    corpus = CellCorpus(folder, make_processor(folder, "rank", arguments.max_length))
    peers = {
        "annbatch": (arguments.annbatch, folder, folder.with_name(f"{folder.name}.annbatch.zarr"), size),
        "scdataset": (arguments.scdataset, folder, size),
    }
    for peer in [peer for peer, (python, *_) in peers.items() if python is None]:
        print(f"{peer} is not measured: give the interpreter of an environment that has it as `--{peer}`.")
        del peers[peer]
    found: dict[str, list[float]] = {name: [] for name in ("raw", *peers)}
    for epoch in range(arguments.repeats):
        found["raw"].append(raw_rate(corpus, epoch, size))
        for peer, (python, *inputs) in peers.items():
            found[peer].append(peer_rate(peer, python, *inputs))
    results = {f"{name}_cells_per_s": round(max(rates)) for name, rates in found.items()}
    return results | {f"raw_times_{peer}": round(max(found["raw"]) / max(found[peer]), 1) for peer in peers}


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


PARTS = {
    "batches": batch_results,
    "objectives": objective_results,
    "peers": peer_results,
    "starts": start_results,
    "memory": memory_results,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of .h5ad files")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--annbatch", help="Python interpreter of an environment with `annbatch[zarrs]`")
    parser.add_argument("--scdataset", help="Python interpreter of an environment with `scdataset`")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--times", type=int, default=10, help="how often the files are streamed in an epoch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "streaming.json")
    arguments = parser.parse_args()
    machine = describe_machine()
    results = {name: value for part in arguments.parts for name, value in PARTS[part](arguments).items()}
    report = {
        "results": results,
        "goals": judged(results),
        "settings": {
            "batch_size": arguments.batch_size,
            "max_length": arguments.max_length,
            "times": arguments.times,
            "repeats": arguments.repeats,
        },
        "machine": {"cores": os.cpu_count(), **machine},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
