"""The energy that a training run used, from the `emissions.csv` that codecarbon wrote beside the model."""

import csv
import math
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files import read_text_file
from ..training.energy import EMISSIONS_FILE

_SUMS = {"energy_consumed": "kwh", "emissions": "co2_kg", "duration": "seconds"}
_NAMES = {"country_name": "country", "cpu_model": "processor", "gpu_model": "gpu", "codecarbon_version": "codecarbon"}


def read_emissions(folder: str | Path) -> dict[str, Any]:
    """What training used, over all runs that wrote to a folder.

    Returns:
        `kwh`, `co2_kg` and `seconds`, each a sum; `runs`, their number; and `country`, `processor`, `gpu` and
        `codecarbon` (its version), as the runs name them. Empty without a file.

    Raises:
        CheckpointError: the file is not codecarbon's.
    """
    path = Path(folder) / EMISSIONS_FILE
    if not path.exists():
        return {}
    rows = list(csv.DictReader(read_text_file(path, CheckpointError).splitlines()))
    try:
        found: dict[str, Any] = {ours: sum(float(row[name]) for row in rows) for name, ours in _SUMS.items()}
        found |= {ours: ", ".join(sorted({row[name] for row in rows} - {""})) for name, ours in _NAMES.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path) from error
    if not rows or not all(math.isfinite(found[one]) and found[one] >= 0 for one in _SUMS.values()):
        raise _damaged(path)
    return found | {"runs": len(rows)}


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"`{path}` does not hold what codecarbon measures: expected a line for each run with the columns "
        f"{', '.join([*_SUMS, *_NAMES])}. Remove it, and the card says that energy was not measured."
    )
