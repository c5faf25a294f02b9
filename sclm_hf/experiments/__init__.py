"""The survey's experiments, one command each: pieces that can be resumed, and a page with tables and figures."""

import importlib
from typing import TYPE_CHECKING

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from .experiment import Experiment

EXPERIMENTS = (
    "annotation",
    "integration",
    "ablation",
    "masked",
    "scaling",
    "transfer",
    "performer",
    "explanation",
    "objectives",
)
"""Names of the experiments, in the order of the survey; each is a file of this folder."""


def get_experiment(name: str) -> "Experiment":
    """The record of an experiment.

    Raises:
        ConfigurationError: there is none of this name.
    """
    if name not in EXPERIMENTS:
        raise ConfigurationError(f"There is no experiment {name!r}: expected one of {', '.join(EXPERIMENTS)}.")
    return importlib.import_module(f".{name}", __name__).EXPERIMENT
