"""Peaks of open chromatin, which are named by their places."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import ConfigurationError

_PEAK = re.compile(r"(.+?)[:_-](\d+)[-_](\d+)")


class Peak(NamedTuple):
    """A peak: the name of its chromosome, its first base, counted from 0, and the one after its last."""

    chromosome: str
    start: int
    end: int


def read_peaks(names: Sequence[str]) -> list[Peak]:
    """Peaks from their names, such as `chr1:100-600`, `chr1-100-600` or `chr1_100_600`.

    Raises:
        ConfigurationError: a name is none of a peak.
    """
    peaks = []
    for name in map(str, names):
        match = _PEAK.fullmatch(name)
        if match is None or int(match[2]) >= int(match[3]):
            raise ConfigurationError(
                f"{name!r} names no peak: names of peaks (`adata.var_names`) must be like `chr1:100-600`, "
                "`chr1-100-600` or `chr1_100_600`, the chromosome with the first base and the one after the last."
            )
        peaks.append(Peak(match[1], int(match[2]), int(match[3])))
    return peaks
