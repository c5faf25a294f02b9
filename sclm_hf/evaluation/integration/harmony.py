"""Harmony: linear corrections of an embedding, cluster by cluster, until batches mix in each.

Source: Korsunsky et al., Nature Methods 16, 1289-1296 (2019), through its own package `harmonypy`.
"""

import logging
from collections.abc import Sequence

import numpy as np

from ...errors import ConfigurationError, require

FEWEST_CELLS = 60
"""Harmony makes a cluster for every 30 cells, and needs two."""


def check_harmony(n_cells: int) -> None:
    """Refuse what Harmony cannot correct, before anything else is computed.

    Raises:
        ConfigurationError: there are too few cells.
        MissingDependencyError: harmonypy is not installed.
    """
    require("harmonypy", extra="integration")
    if n_cells < FEWEST_CELLS:
        raise ConfigurationError(
            f"Harmony makes a cluster of every 30 cells and needs {FEWEST_CELLS}, got {n_cells}: leave out `harmony` "
            "(`--harmony`), or give more cells."
        )


def harmony(embedding: np.ndarray, batches: Sequence[str] | np.ndarray, *, seed: int = 0) -> np.ndarray:
    """(n_cells, size) float32: an embedding corrected by Harmony, with its default settings.

    Args:
        embedding: (n_cells, size).
        batches: (n_cells,) batch of each cell.
        seed: seed of the clusters.

    Raises:
        ConfigurationError: there are too few cells.
        MissingDependencyError: harmonypy is not installed.
    """
    check_harmony(len(embedding))
    harmonypy = require("harmonypy", extra="integration")
    logging.getLogger("harmonypy").setLevel(logging.WARNING)
    # cells in columns: it takes a matrix with as many columns as cells to be so
    columns = np.ascontiguousarray(np.asarray(embedding, np.float64).T)
    corrected = harmonypy.run_harmony(
        columns, {"batch": np.asarray(batches, str)}, "batch", random_state=seed, verbose=False
    )
    return np.asarray(corrected.Z_corr, np.float32)
