"""A folder of packages in which this one is not, and programs that run there."""

import os
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from sclm_hf.hub.card import code_section
from sclm_hf.registry.specialists import Specialist

ROOT = Path(__file__).parents[1]


def required(roots: list[str]) -> set[str]:
    """The installed distributions that `pip install` of `roots` brings, these included."""
    found, waiting = set(), list(roots)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name not in found:
            try:
                requirements = map(Requirement, distribution(name).requires or ())
            except PackageNotFoundError:
                continue
            found.add(name)
            waiting += [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def make_site(folder: Path, specialist: Specialist | None = None) -> Path:
    """Links to the packages that a card says to install, and to nothing else."""
    command = next(line for line in code_section("x", specialist).splitlines() if line.startswith("pip install"))
    for name in required([Requirement(one).name for one in shlex.split(command)[2:]]):
        for file in distribution(name).files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(Path(distribution(name).locate_file(top)))
    return folder


def run_script(script: str, *arguments: str, folder: Path, site: Path | None = None, **environment: str) -> None:
    """A script in a process of its own, which gets `site` as its last argument; with it, without this package."""
    start = [sys.executable, "-I", "-S"] if site else [sys.executable]
    command = [*start, script, *arguments, *([str(site)] if site else [])]
    inherited = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment = inherited | threads | environment
    result = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
