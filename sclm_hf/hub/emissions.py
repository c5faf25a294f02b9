"""The energy that a training run used, from the `emissions.csv` that codecarbon wrote beside the model."""

import csv
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigurationError
from ..files import read_text_file
from ..training.energy import EMISSIONS_FILE

_AMOUNTS = {"energy_consumed": "kwh", "emissions": "co2_kg", "duration": "seconds"}
_NAMES = {"country_name": "country", "cpu_model": "processor", "gpu_model": "gpu", "codecarbon_version": "codecarbon"}
_LONGEST_NAME, _MOST_NAMES = 80, 4


@dataclass(frozen=True)
class Energy:
    """What training used, over all its runs, on the machine of its main process.

    Attributes:
        kwh: energy.
        co2_kg: kilograms of CO2 that its generation emitted.
        seconds: how long the runs took.
        runs: their number.
        country: where the machine stands.
        processor, gpu: what it has; empty where there is none.
        codecarbon: version of codecarbon, which measured.

    Raises:
        ConfigurationError: something else stands there, as in a file that somebody edited.
    """

    kwh: float
    co2_kg: float
    seconds: float
    runs: int
    country: str
    processor: str
    gpu: str
    codecarbon: str

    def __post_init__(self) -> None:
        for name in (*_AMOUNTS.values(), "runs"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise ConfigurationError(f"`energy.{name}` must be a number of 0 or more, got {value!r}.")
        for name in _NAMES.values():
            value = getattr(self, name)
            if not isinstance(value, str) or value != _plain(value):
                raise ConfigurationError(
                    f"`energy.{name}` must be a name of at most {_LONGEST_NAME} letters, got {value!r:.200}."
                )

    @property
    def said(self) -> str:
        """Amounts in a sentence."""
        energy, co2 = _amount(1000 * self.kwh, "Wh", "kWh"), _amount(1000 * self.co2_kg, "g", "kg")
        minutes = self.seconds / 60
        return f"{energy} and {co2} of CO2 in " + (
            f"{_rounded(minutes)} minutes" if minutes < 120 else f"{_rounded(minutes / 60)} hours"
        )

    def to_metadata(self) -> dict[str, Any]:
        """In the words of the Hub, whose emissions are in grams."""
        return {
            "emissions": float(f"{1000 * self.co2_kg:.4g}"),
            "source": "codecarbon",
            "geographical_location": self.country,
            "hardware_used": ", ".join(filter(None, [self.processor, self.gpu])),
        }


def read_emissions(folder: str | Path) -> Energy | None:
    """What training used, over all runs that wrote to a folder; None without a file of codecarbon.

    An adapter that training left in a model's folder shares the model's.

    Raises:
        CheckpointError: the file is not codecarbon's.
    """
    folder = Path(folder)
    path = next((one for one in _places(folder) if one.exists()), None)
    if path is None:
        return None
    try:
        rows = list(csv.DictReader(read_text_file(path, CheckpointError).splitlines()))
        amounts = [{ours: float(row[name]) for name, ours in _AMOUNTS.items()} for row in rows]
        if not rows or any(not math.isfinite(one) or one < 0 for amount in amounts for one in amount.values()):
            raise ValueError("no amounts")
        sums = {name: sum(amount[name] for amount in amounts) for name in _AMOUNTS.values()}
        names = {ours: _joined(row[name] for row in rows) for name, ours in _NAMES.items()}
        return Energy(**sums, **names, runs=len(rows))
    except (csv.Error, ConfigurationError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"`{path}` does not hold what codecarbon measures: expected a line for each run with the columns "
            f"{', '.join([*_AMOUNTS, *_NAMES])}. Remove it, and the card says nothing of energy."
        ) from error


def _places(folder: Path) -> list[Path]:
    here = folder / EMISSIONS_FILE
    return [here, folder.resolve().parent / EMISSIONS_FILE] if folder.resolve().name == "adapter" else [here]


def _joined(names: Iterable[str]) -> str:
    """Different names side by side, as far as a card has room for them."""
    different = sorted({plain for name in names if (plain := _plain(name))})
    more = [f"{len(different) - _MOST_NAMES} others"] if len(different) > _MOST_NAMES else []
    return _plain(", ".join(different[:_MOST_NAMES] + more))


def _plain(name: str) -> str:
    """A name without what a card would take for markup."""
    return re.sub(r"[^\w .,()@/+-]+", " ", name).strip()[:_LONGEST_NAME].strip()


def _amount(value: float, unit: str, larger: str) -> str:
    return f"{_rounded(value)} {unit}" if value < 1000 else f"{_rounded(value / 1000)} {larger}"


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"
