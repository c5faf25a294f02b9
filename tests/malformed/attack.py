"""Runs malformed inputs, each in a process of its own with limits, and says how each ended.

python -m tests.malformed.attack --seed 0 1 --count 500 --output outcomes.json --table table.json
python -m tests.malformed.attack --only "embed csr.h5ad | external link | 17"
"""

import argparse
import faulthandler
import gc
import hashlib
import itertools
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from sclm_hf.versions import package_versions

from .damage import Damage
from .damage_genome import GENOMES
from .damage_hdf5 import HDF5
from .damage_shards import SHARDS
from .damage_weights import ADAPTERS, WEIGHTS
from .damage_zarr import ZARR
from .sound import Target, make_sound_inputs, targets

SECONDS = 60
"""Most time for an input; sound ones take one or two seconds."""

MEGABYTES = 1024
"""Most memory above that of the loaded package; sound ones take less than a hundred."""

_DAMAGES = {
    "h5ad": HDF5,
    "zarr": ZARR,
    "shards": SHARDS,
    "checkpoint": WEIGHTS,
    "release": WEIGHTS,
    "adapter": ADAPTERS,
    "genome": GENOMES,
}

GOOD = ("clear", "accepted")

_PACKAGES = ("torch", "transformers", "peft", "safetensors", "h5py", "zarr", "numcodecs", "pyarrow", "anndata")


@dataclass(frozen=True)
class Outcome:
    """How one malformed input ended.

    Attributes:
        attack: `target | damage | seed`, with which it can be repeated.
        what: what was damaged.
        outcome: `clear` (one of our errors that names the input), `accepted` (rightly), `not applicable`; or `raw`
            (another exception, or the process died), `vague` (ours, without a name), `hang`, `blow-up`, `silent`
            (accepted with another result, or a result that is not sound), `executed`, `elsewhere` (something outside
            was changed).
        message: the error.
    """

    attack: str
    what: str
    outcome: str
    message: str


def attacks(sound: Path, seed: int) -> Iterator[tuple[Target, Damage, int]]:
    """Pairs of target and damage without end, every pair once before any comes again."""
    pairs = [(target, damage) for target in targets(sound) for damage in _DAMAGES[target.kind]]
    generator = np.random.default_rng(seed)
    for again in itertools.count(seed):
        yield from ((*pairs[place], again) for place in generator.permutation(len(pairs)))


def run_attack(target: Target, damage: Damage, seed: int, sound: Path, expected: np.ndarray) -> Outcome:
    """Damage a copy of the target's input, take the journey in a child process, and judge how that ended."""
    name = f"{target.name} | {damage.name} | {seed}"
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    with tempfile.TemporaryDirectory(prefix="malformed-") as place:
        folder = Path(place)
        victim, output = folder / "victim", folder / "output"
        shutil.copytree(sound / "victim", victim)
        output.mkdir()
        copy = folder / Path(target.content).name
        (shutil.copytree if (sound / target.content).is_dir() else shutil.copy)(sound / target.content, copy)
        try:
            what = damage.apply(copy, generator, victim)
        except LookupError:
            what = None
        if what is None:
            return Outcome(name, "", "not applicable", "")
        before = _fingerprint(victim)
        kind, message = _in_child(target, copy, output, folder / "result.npy")
        if (victim / "canary").exists():
            kind = "executed"
        elif _fingerprint(victim) != before:
            kind = "elsewhere"
        elif kind == "accepted":
            found = np.load(folder / "result.npy")
            same = found.shape == expected.shape and np.allclose(found, expected, atol=1e-5)
            if damage.refused or not (same or damage.alters):
                kind, message = "silent", "taken for sound" if same else "another result"
        elif kind == "clear" and not _names(message, copy, what):
            kind = "vague"
        return Outcome(name, what, kind, message)


def _names(message: str, copy: Path, what: str) -> bool:
    words = {str(copy), what.split(":")[0], Path(what).name}
    return any(word in message for word in words if word)


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        digest.update(str(file.relative_to(folder)).encode())
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _in_child(target: Target, copy: Path, output: Path, result: Path) -> tuple[str, str]:
    """The journey in a fork of this process: (`clear`, `raw`, `accepted`, `hang` or `blow-up`, message)."""
    report = result.with_name("report.json")
    child = os.fork()
    if child == 0:
        try:
            _journey(target, copy, output, result, report)
        finally:
            os._exit(0)
    deadline = time.monotonic() + SECONDS
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hang", result.with_name("stack.txt").read_text()[:700]
        time.sleep(0.02)
    if not report.exists():
        return "raw", "the process died"
    kind, message = json.loads(report.read_text())
    return kind, message


def _journey(target: Target, copy: Path, output: Path, result: Path, report: Path) -> None:
    """What the child does: limits, the journey, a report."""
    os.setsid()
    # to whatever is asked, the answer is yes
    answers = os.memfd_create("answers")
    os.write(answers, b"y\n" * 1000)
    os.lseek(answers, 0, os.SEEK_SET)
    os.dup2(answers, 0)
    sys.stdin = os.fdopen(0)
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    stack = open(result.with_name("stack.txt"), "w")  # noqa: SIM115
    faulthandler.dump_traceback_later(SECONDS - 5, file=stack)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEGABYTES * 2**20,) * 2)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 2 * MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    before = _resident()
    kind, message = _tried(target, copy, output, result)
    if _resident() - before > MEGABYTES and kind != "blow-up":
        kind, message = "blow-up", f"{_resident() - before:.0f} MB; {kind}: {message}"
    report.write_text(json.dumps([kind, message]))


def _resident() -> float:
    """Most memory that this process has had, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _tried(target: Target, copy: Path, output: Path, result: Path) -> tuple[str, str]:
    from sclm_hf.errors import SclmError

    warnings.simplefilter("ignore")
    try:
        np.save(result, target.run(copy, output))
        return "accepted", ""
    except SclmError as error:
        return "clear", str(error)
    except MemoryError as error:
        return "blow-up", f"MemoryError: {error}"
    except AssertionError as error:
        return "silent", str(error)
    except BaseException as error:
        return "raw", f"{type(error).__name__}: {error}"[:500]


def run_attacks(seed: int, count: int, only: str = "") -> Iterator[Outcome]:
    """How `count` attacks end that apply to their target; or all that have `only` in their names."""
    expected: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory(prefix="malformed-inputs-") as place:
        sound = Path(place)
        make_sound_inputs(sound)
        for target, damage, number in attacks(sound, seed):
            if count <= 0 or (only and number > seed):
                return
            if only not in f"{target.name} | {damage.name} | {number}":
                continue
            if target.name not in expected:
                # what this loads and compiles the children inherit
                with tempfile.TemporaryDirectory(prefix="sound-") as output:
                    expected[target.name] = target.run(sound / target.content, Path(output))
                gc.freeze()
            outcome = run_attack(target, damage, number, sound, expected[target.name])
            if outcome.outcome != "not applicable":
                count -= 1
                yield outcome


def table(outcomes: list[Outcome]) -> dict[str, dict[str, int]]:
    """How many inputs of each kind ended how."""
    kinds = {target.name: target.kind for target in targets(Path())}
    found: dict[str, Counter] = {kind: Counter() for kind in _DAMAGES}
    for outcome in outcomes:
        found[kinds[outcome.attack.partition(" | ")[0]]][outcome.outcome] += 1
    return {kind: dict(sorted(numbers.items())) for kind, numbers in found.items()}


def main() -> None:
    """Run the attacks and print those that ended badly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--count", type=int, default=60, help="inputs of each seed")
    parser.add_argument("--only", default="", help="repeat the attacks of this seed whose name contains this")
    parser.add_argument("--output", type=Path, help="write all outcomes as JSON")
    parser.add_argument("--table", type=Path, help="write how many ended how, with versions, as JSON")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["SCLM_NO_PROGRESS"] = "1"
    # threads would not outlive the fork, and be waited for
    torch.set_num_threads(1)
    outcomes = []
    for seed in arguments.seed:
        for outcome in run_attacks(seed, arguments.count, arguments.only):
            outcomes.append(outcome)
            if outcome.outcome not in GOOD or arguments.only:
                print(json.dumps(asdict(outcome)), flush=True)
    print(json.dumps(Counter(outcome.outcome for outcome in outcomes)))
    if arguments.output:
        arguments.output.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    if arguments.table:
        record = {"seeds": arguments.seed, "inputs": len(outcomes), "versions": package_versions(*_PACKAGES)}
        arguments.table.write_text(json.dumps(record | {"outcomes": table(outcomes)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
