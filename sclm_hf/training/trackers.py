"""Trackers (TensorBoard, Trackio, Weights & Biases, codecarbon) through Accelerate; the log file is written anyway."""

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError, require
from .arguments import TrainingConfig
from .energy import EnergyTracker, check_country

accelerate = require("accelerate", extra="train")


def start_trackers(accelerator: accelerate.Accelerator, config: TrainingConfig) -> None:
    """Start the trackers that `config.report_to` names. Trackio writes to a local database unless told otherwise."""
    if not config.trackers:
        return
    # TensorBoard takes nothing but numbers, truth values and text
    settings = {
        name: value if isinstance(value, (bool, int, float, str)) else str(value)
        for name, value in config.to_dict().items()
    }
    accelerator.init_trackers(config.project_name, config=settings)


def trackers_of(config: TrainingConfig) -> list[Any]:
    """The trackers that `config.report_to` names, as Accelerate takes them."""
    return [EnergyTracker(Path(config.output_dir)) if one == "codecarbon" else one for one in config.trackers]


@contextlib.contextmanager
def energy_to_the_end(accelerator: accelerate.Accelerator) -> Iterator[None]:
    """Let codecarbon write its line for a run that fails, too, and end its threads with the run."""
    try:
        yield
    except BaseException as failure:
        for tracker in accelerator.trackers:
            if isinstance(tracker, EnergyTracker):
                try:
                    tracker.finish()
                except Exception as error:
                    failure.add_note(f"What codecarbon measured last is lost: {error!r}.")
        raise


def check_trackers(config: TrainingConfig) -> None:
    """Refuse to train when a tracker is not there, which Accelerate would only warn about.

    Raises:
        MissingDependencyError: it is not installed.
        ConfigurationError: codecarbon is not told the country.
    """
    for name in config.trackers:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"`report_to` names {name}, which is not installed: run `pip install {name}`, or leave it out."
            ) from error
    if "codecarbon" in config.trackers:
        check_country()
