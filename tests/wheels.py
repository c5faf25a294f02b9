"""Builds the wheel and the sdist, and tries both as a newcomer would, in environments that hold nothing else.

    python -m tests.wheels --python python3.11 python3.12
    python -m tests.wheels --python python3.11 --lowest
    python -m tests.wheels --extras train onnx

For each Python: a new virtual environment, `pip install` of the wheel with `[anndata,cli]`, then the first steps of a
newcomer. The sdist is tried with the first Python. `--torch` says which torch to install before, such as the file of a
build for CPUs; `--lowest` installs the versions of `constraints-lowest.txt`. With `--extras` each of these extras
(`all-of-them` = every one) is installed alone: what messages of the package say that it brings must be there, and all
modules of the package must open, or say which other extra they need.
"""

import argparse
import configparser
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOWEST = ROOT / "constraints-lowest.txt"

STEPS = """
import subprocess, sys
from pathlib import Path

import sclm_hf

assert "torch" not in sys.modules, "importing the package imports torch"
assert Path(sclm_hf.__file__).is_relative_to(sys.prefix), sclm_hf.__file__

import anndata, numpy
from sclm_hf.opening.tiny import make_tiny_checkpoint

model = make_tiny_checkpoint("scgpt", "model", task="annotate")
genes = list(sclm_hf.CellProcessor.from_pretrained(model).tokenizer.gene_vocabulary)[-40:]
counts = numpy.random.default_rng(0).poisson(2.0, (20, len(genes))).astype("float32")
cells = anndata.AnnData(counts)
cells.obs_names, cells.var_names = [f"cell{n}" for n in range(20)], genes
cells.write_h5ad("cells.h5ad")
assert sclm_hf.embed(cells, model).obsm["X_scgpt"].shape == (20, 32)
command = str(Path(sys.executable).with_name("sclm-hf"))
for arguments in (["--help"], ["models"], ["doctor"], ["doctor", "model"],
                  ["embed", "cells.h5ad", "out.h5ad", "--model", "model"],
                  ["annotate", "cells.h5ad", "named.h5ad", "--model", "model"]):
    subprocess.run([command, *arguments], check=True, stdout=subprocess.DEVNULL)
assert "sclm_prediction" in anndata.read_h5ad("named.h5ad").obs
print("ok", sys.version.split()[0], anndata.__version__, numpy.__version__)
"""

OPENED = """
import importlib, json, pkgutil, sys

import sclm_hf
from sclm_hf.errors import MissingDependencyError

extra, modules = sys.argv[1], json.loads(sys.argv[2])
for module in modules:
    importlib.import_module(module)
opened, closed, wrong = 0, set(), []
for module in pkgutil.walk_packages(sclm_hf.__path__, "sclm_hf."):
    try:
        importlib.import_module(module.name)
        opened += 1
    except MissingDependencyError as error:
        closed.add(module.name)
        if f"[{extra}]" in str(error):
            wrong.append((module.name, error))
    except ImportError as error:
        wrong.append((module.name, error))
assert not wrong, "\\n".join(f"{name}: {error}" for name, error in wrong)
print("ok", extra, len(modules), "modules of others,", opened, "of ours;", len(closed), "say what they need")
"""


def run(*command: object, cwd: Path | None = None) -> None:
    """A command that must end well."""
    print("+", *[str(part) if len(str(part)) < 200 else "…" for part in command], flush=True)
    subprocess.run([str(part) for part in command], check=True, cwd=cwd)


def build(folder: Path) -> tuple[Path, Path]:
    """The wheel and the sdist, built by pip's own means in environments of their own."""
    tools = new_environment(sys.executable, folder / "tools")
    run(tools, "-m", "pip", "install", "--quiet", "build")
    run(tools, "-m", "build", "--outdir", folder / "dist", ROOT)
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    return wheel, sdist


def new_environment(python: str, folder: Path) -> Path:
    """The interpreter of a new virtual environment."""
    run(python, "-m", "venv", folder)
    return folder / "bin" / "python"


def try_archive(archive: Path, python: str, folder: Path, torch: str | None, lowest: bool) -> None:
    """Install a wheel or an sdist, and take the first steps, away from the sources."""
    started = time.monotonic()
    interpreter = new_environment(python, folder / "env")
    constraints = ("--constraint", LOWEST) if lowest else ()
    install = (interpreter, "-m", "pip", "install", "--quiet", *constraints)
    if torch is not None:
        run(*install, torch)
    run(*install, f"{archive}[anndata,cli]")
    run(interpreter, "-m", "pip", "check")
    run(interpreter, "-I", "-c", STEPS, cwd=folder)
    print(f"{archive.name} on {python}: sound, {time.monotonic() - started:.0f} s", flush=True)


def try_extra(wheel: Path, python: str, folder: Path, torch: str | None, extra: str) -> None:
    """Install a wheel with one extra, and open everything."""
    from .test_packaging import required_modules

    started = time.monotonic()
    interpreter = new_environment(python, folder / "env")
    install = (interpreter, "-m", "pip", "install", "--quiet")
    if torch is not None:
        run(*install, torch)
    run(*install, f"{wheel}[{extra}]")
    run(interpreter, "-m", "pip", "check")
    modules = sorted({module for _, module, of in required_modules() if of == extra})
    run(interpreter, "-I", "-c", OPENED, extra, json.dumps(modules), cwd=folder)
    print(f"[{extra}] on {python}: sound, {time.monotonic() - started:.0f} s", flush=True)
    shutil.rmtree(folder)


def extras(asked: list[str]) -> list[str]:
    """The extras to try."""
    if asked != ["all-of-them"]:
        return asked
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return list(setup["options.extras_require"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="the Pythons to try")
    parser.add_argument("--torch", help="what to install as torch before all else")
    parser.add_argument("--lowest", action="store_true", help="install the lowest versions that are supported")
    parser.add_argument("--extras", nargs="+", help="try these extras alone, with the first Python")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheel, sdist = build(Path(folder))
        for extra in extras(arguments.extras or []):
            place = Path(folder) / extra
            place.mkdir()
            try_extra(wheel, arguments.python[0], place, arguments.torch, extra)
        if arguments.extras:
            return
        for number, python in enumerate(arguments.python):
            for archive in (wheel, sdist) if number == 0 and not arguments.lowest else (wheel,):
                place = Path(folder) / f"{number}-{archive.suffix}"
                place.mkdir()
                try_archive(archive, python, place, arguments.torch, arguments.lowest)


if __name__ == "__main__":
    main()
