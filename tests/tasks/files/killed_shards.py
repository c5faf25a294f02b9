"""Kills the shards of a run, and their merging, again and again; launched by `test_killed_shards.py`.

It is a program of its own because it forks: torch is imported once, and no thread has started when a run is forked.
"""

import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from sclm_hf import ScGPTForSequenceClassification
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.tasks.files.merging import merge_shards
from sclm_hf.tasks.running import batches
from tests.tasks.tiny import make_cells, save_checkpoint
from tests.training.killed_runs import count_file_events, forked

batches.BLOCK_SIZE = 4
N_CELLS = 47
LONGEST = 2.0
"""Seconds after which a process that the clock kills is killed at the latest; it may have ended before."""


def main(folder: Path, verb: str, n_shards: int, kills: int, seed: int) -> None:
    """Print how often a process was killed, how often while it merged, and how many files were compared."""
    make_cells(N_CELLS).write_h5ad(folder / "in.h5ad")
    save_checkpoint(folder / "model", ScGPTForSequenceClassification)
    generator, counts = random.Random(seed), {"kills": 0, "merging": 0, "compared": 0}
    whole, merged = folder / "whole", folder / "whole" / "merged.h5ad"
    # the first run compiles the encodings' kernels, once for all others
    undisturbed(whole, shard_of(folder, verb, whole, None))
    expected = stored(whole / "out.h5ad")
    parts = [whole / f"out.{number}-of-{n_shards}.h5ad" for number in range(1, n_shards + 1)]
    shard, *_ = [undisturbed(whole, shard_of(folder, verb, whole, f"{n + 1}/{n_shards}")) for n in range(n_shards)]
    merging = undisturbed(whole, merge(folder, merged, parts))
    assert same(stored(merged), expected), "merged shards differ"
    while counts["kills"] < kills or not counts["merging"]:
        output = folder / f"round-{counts['compared']}"
        output.mkdir()
        steps = [shard_of(folder, verb, output, f"{n + 1}/{n_shards}") for n in range(n_shards)]
        counts["kills"] += finish(steps, output, generator, shard)
        parts = [output / part.name for part in parts]
        n_killed = finish([merge(folder, output / "merged.h5ad", parts)], output, generator, merging)
        counts["kills"], counts["merging"] = counts["kills"] + n_killed, counts["merging"] + n_killed
        assert same(stored(output / "merged.h5ad"), expected), f"{output} differs"
        left = {path.name for path in output.iterdir() if path.suffix != ".lock"}
        assert left == {"merged.h5ad", *(path.name for path in parts)}, f"{output} holds {left}"
        counts["compared"] += 1
    print(json.dumps(counts))


def shard_of(folder: Path, verb: str, output: Path, shard: str | None) -> Callable[[], object]:
    return lambda: run_files(verb, folder / "in.h5ad", output / "out.h5ad", str(folder / "model"), shard=shard)


def merge(folder: Path, merged: Path, parts: list[Path]) -> Callable[[], object]:
    return lambda: merge_shards(merged, parts, folder / "in.h5ad")


def undisturbed(output: Path, step: Callable[[], object]) -> int:
    """Perform a step to its end; how often it touches files."""
    output.mkdir(exist_ok=True)
    events, log = output.with_suffix(".json"), output.with_suffix(".txt")

    def action() -> None:
        count = count_file_events(output)
        step()
        events.write_text(json.dumps(count))

    assert os.waitpid(forked(action, log), 0)[1] == 0, log.read_text()
    return json.loads(events.read_text())[0]


def finish(steps: list[Callable[[], object]], output: Path, generator: random.Random, n_events: int) -> int:
    """Perform steps side by side, most of them to be killed, until each has ended well; how many were killed."""
    n_killed = 0
    while steps:
        running = [(step, start(step, output, generator, n_events)) for step in steps]
        steps = []
        for step, process in running:
            status = os.waitpid(process, 0)[1]
            if os.WIFSIGNALED(status):
                n_killed += 1
                steps.append(step)
            else:
                assert status == 0, output.with_suffix(".txt").read_text()
    return n_killed


def start(step: Callable[[], object], output: Path, generator: random.Random, n_events: int) -> int:
    """Start a step that is killed when it touches a file for the nth time, after some time, or not at all."""
    doom = generator.choice(("file", "file", "time", "none"))
    die_at, delay = generator.randint(1, n_events), generator.uniform(0, LONGEST)

    def action() -> None:
        count_file_events(output, die_at if doom == "file" else None)
        if doom == "time":
            signal.signal(signal.SIGALRM, lambda *_: os.killpg(0, signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, delay)
        step()
        signal.setitimer(signal.ITIMER_REAL, 0)

    return forked(action, output.with_suffix(".txt"))


def stored(path: Path) -> dict[str, np.ndarray]:
    """Every array of a file."""
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return arrays


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Whether arrays are the same to the last bit."""
    with contextlib.suppress(KeyError):
        return len(found) == len(expected) and all(
            np.asarray(found[name]).tobytes() == np.asarray(array).tobytes()
            if np.asarray(array).dtype != object
            else np.array_equal(found[name], array)
            for name, array in expected.items()
        )
    return False


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
