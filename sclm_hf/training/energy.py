"""The energy of a training run, measured by codecarbon into `emissions.csv` beside the model."""

import os
import time
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError, require

accelerate = require("accelerate", extra="train")

EMISSIONS_FILE = "emissions.csv"
"""codecarbon's own name, one line for each run; a run that is resumed adds another."""

COUNTRY = "CODECARBON_COUNTRY_ISO_CODE"
"""The environment variable by which codecarbon learns where the machine stands."""

_WRITE_EVERY = 60.0
"""Seconds between two writes, so that little is lost with a run that is killed."""


class EnergyTracker(accelerate.tracking.GeneralTracker):
    """codecarbon as a tracker of Accelerate: it measures the machine of the main process, and asks no network.

    Where processor or GPU have no meter, codecarbon estimates from their nominal power and their load.
    """

    name = "codecarbon"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.written = 0.0

    @property
    def tracker(self) -> Any:
        """codecarbon's tracker."""
        return self._tracker

    def start(self) -> None:
        """Start to measure."""
        from codecarbon import OfflineEmissionsTracker

        self._tracker = OfflineEmissionsTracker(
            country_iso_code=check_country(),
            output_dir=str(self.folder),
            output_file=EMISSIONS_FILE,
            on_csv_write="update",
            allow_multiple_runs=True,
            log_level="error",
        )
        self._tracker.start()
        self.written = time.monotonic()

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Settings are of no interest here."""

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Write what was measured so far, at most once a minute."""
        if time.monotonic() - self.written >= _WRITE_EVERY:
            self._tracker.flush()
            self.written = time.monotonic()

    def finish(self) -> None:
        """Stop, and write the line of this run."""
        self._tracker.stop()


def check_country() -> str:
    """The country whose electricity the machine uses, as `COUNTRY` names it.

    Raises:
        ConfigurationError: it is not named, and emissions could not be computed.
    """
    if not (country := os.environ.get(COUNTRY)):
        raise ConfigurationError(
            "`report_to` names codecarbon, which needs the country whose electricity the machine uses: set the "
            f"environment variable `{COUNTRY}` to its three letters, for example `{COUNTRY}=DEU`."
        )
    return country
