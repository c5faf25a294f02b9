"""The energy of a training run, measured by codecarbon into `emissions.csv` beside the model."""

import logging
import os
import time
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError, require
from ..logging import warn

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
        self._tracker: Any = None

    @property
    def tracker(self) -> Any:
        """codecarbon's tracker."""
        return self._tracker

    def start(self) -> None:
        """Start to measure."""
        # its own setting comes too late for what it says while it starts
        logging.getLogger("codecarbon").setLevel(logging.ERROR)
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
        """Stop, and write the line of this run; nothing where it was stopped before or never started."""
        tracker, self._tracker = self._tracker, None
        if tracker is None:
            return
        tracker.stop()
        if not (self.folder / EMISSIONS_FILE).exists():
            warn(f"codecarbon wrote no `{self.folder / EMISSIONS_FILE}`: the card will say nothing of energy.")


def check_country() -> str:
    """The three letters of the country whose electricity the machine uses, as `COUNTRY` names it.

    Raises:
        ConfigurationError: it is not named, or codecarbon does not know it, and emissions could not be computed.
    """
    from codecarbon.input import DataSource

    country = os.environ.get(COUNTRY, "").strip().upper()
    if country not in DataSource().get_global_energy_mix_data():
        raise ConfigurationError(
            "`report_to` names codecarbon, which needs the country whose electricity the machine uses: set the "
            f"environment variable `{COUNTRY}` to its three letters, for example `{COUNTRY}=DEU`"
            f"{f'; {country!r} is none that codecarbon knows' if country else ''}."
        )
    return country
