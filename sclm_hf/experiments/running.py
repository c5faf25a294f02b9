"""An experiment from its pieces to its page: what is done already is not done again."""

import json
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cards import render
from ..errors import ConfigurationError, SclmWarning, require
from ..evaluation.plots.drawing import save_figure
from ..files import read_json_object, write_text
from ..logging import progress_bar
from ..versions import package_versions
from . import get_experiment
from .experiment import FAST, FULL, Experiment, Page, Piece, Size

PIECES, FIGURES = ".pieces", "figures"
PACKAGES = ("torch", "transformers", "scikit-learn", "scib-metrics", "numpy", "anndata")


def run_experiment(
    name: str,
    output: str | Path,
    *,
    data: str | Path | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    fast: bool = False,
) -> Path:
    """Run what is missing of an experiment, and write its page, figures and numbers.

    Each setting with each seed is a piece, kept under `output/.pieces`: a run that was stopped goes on there.

    Args:
        name: one of [`EXPERIMENTS`](sclm_hf.experiments.EXPERIMENTS).
        output: folder to write `NAME.md`, `NAME.json` and `figures/NAME_*.png` to.
        data: folder that holds the data sets in `h5ad/`; by default `SCLM_DATA`.
        seeds: seeds of splits, new weights and training.
        fast: take so little of everything that a run shows only whether it works.

    Returns:
        The page.

    Raises:
        ConfigurationError: there is no such experiment, a data set is missing, or a seed is given twice or below 0.
        MissingDependencyError: it takes packages that are not installed.
        SclmError: a file cannot be read or written.
    """
    experiment, output, size = get_experiment(name), Path(output), FAST if fast else FULL
    seeds = _checked(seeds)
    folder = _data_folder(data, experiment)
    for module in experiment.needs:
        require(module, extra="integration")
    found: dict[str, dict[int, dict[str, Any]]] = {}
    pieces = [(setting, seed) for setting in experiment.settings for seed in seeds]
    for setting, seed in progress_bar(pieces, desc=name, unit="piece"):
        kept = output / PIECES / f"{name}-fast" if fast else output / PIECES / name
        path = kept / f"{setting}-{seed}.json"
        found.setdefault(setting, {})[seed] = _piece(experiment, setting, seed, size, folder, path)
    return _write(experiment, experiment.report(found), found, output, size)


def _checked(seeds: Sequence[int]) -> list[int]:
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ConfigurationError(f"`seeds` (`--seeds`) must be different numbers from 0, got {list(seeds)}.")
    return list(seeds)


def _data_folder(data: str | Path | None, experiment: Experiment) -> Path:
    """The folder of the `.h5ad` files."""
    given = data or os.environ.get("SCLM_DATA")
    if not given:
        raise ConfigurationError(
            "Name with `data` (`--data`), or with the variable `SCLM_DATA`, the folder that holds the data "
            f"sets in `h5ad/`: {', '.join(f'{one}.h5ad' for one in experiment.datasets)}."
        )
    folder = Path(given) / "h5ad"
    if missing := [f"{one}.h5ad" for one in experiment.datasets if not (folder / f"{one}.h5ad").is_file()]:
        raise ConfigurationError(f"`{folder}` lacks {', '.join(missing)}, which `{experiment.name}` reads.")
    return folder


def _piece(experiment: Experiment, setting: str, seed: int, size: Size, data: Path, path: Path) -> dict[str, Any]:
    """What a piece gave before, or gives now."""
    if path.exists():
        return read_json_object(path, ConfigurationError)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # that models so small hardly tell cells apart is what is measured
        warnings.simplefilter("ignore", SclmWarning)
        start = time.process_time()
        result = experiment.run(Piece(setting, seed, size, data, Path(scratch)))
        result["cpu_seconds"] = round(time.process_time() - start, 1)
    write_text(path, json.dumps(result) + "\n")
    # as it is read again
    return json.loads(json.dumps(result))


def _write(experiment: Experiment, page: Page, found: dict, output: Path, size: Size) -> Path:
    figures = []
    for name, (figure, caption) in page.figures.items():
        file = Path(FIGURES) / f"{experiment.name}_{name}.png"
        save_figure(figure, output / file)
        figures.append((file.as_posix(), caption))
    seconds = {setting: [one["cpu_seconds"] for one in seeds.values()] for setting, seeds in found.items()}
    seeds = list(next(iter(found.values())))
    facts = {"size": size._asdict(), "seeds": seeds, "versions": package_versions(*PACKAGES), "cpu_seconds": seconds}
    content = {"experiment": experiment.name, **facts, "answers": page.answers, "numbers": page.numbers}
    write_text(output / f"{experiment.name}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    total = round(sum(map(sum, seconds.values())))
    text = render("experiment", experiment=experiment, page=page, figures=figures, total=total, **facts)
    write_text(output / f"{experiment.name}.md", text + "\n")
    return output / f"{experiment.name}.md"
