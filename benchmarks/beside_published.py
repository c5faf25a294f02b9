"""What the benchmarks of `embed` beside a published procedure have in common."""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine

import sclm_hf


def in_turn(runs: dict[str, Callable[[], np.ndarray]], rounds: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The shortest time of each run in `rounds` rounds, each of which runs all, and what each gave."""
    seconds: dict[str, float] = {}
    vectors: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            vectors[name] = run()
            seconds[name] = min(time.perf_counter() - start, seconds.get(name, np.inf))
    return seconds, vectors


def reach(ratio: float, goal: float) -> dict:
    """How many times as fast as the published procedure, beside the goal."""
    return {"ratio": ratio, "goal": goal, "reached": bool(ratio >= goal)}


def report(doc: str, measure: Callable[[int, int, int, int], dict], *, cells: int, rounds: int) -> None:
    """The command of a benchmark: read flags, measure, print and write.

    Args:
        doc: the docstring of the file.
        measure: numbers of cells, rounds, threads and layers -> results.
        cells, rounds: how many by default.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=cells)
    parser.add_argument("--rounds", type=int, default=rounds, help="the best of so many is taken")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12, help="fewer for a quick look")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found = {
        "benchmark": Path(measure.__code__.co_filename).stem,
        "settings": {key: value for key, value in vars(given).items() if key != "output"},
        "versions": {"sclm_hf": sclm_hf.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": describe_machine(),
        "results": measure(given.cells, given.rounds, given.threads, given.layers),
    }
    print(json.dumps(found, indent=2))
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
