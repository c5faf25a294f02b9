"""Numbers in a column of `obs` as labels: bins with upper bounds."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import ConfigurationError

Bins = Mapping[str, float]
"""Label -> upper bound, which itself belongs to the bin; ascending, the last one usually infinite."""


def binned(values: Sequence[str], bins: Bins, slot: str) -> list[str]:
    """The label of each value.

    Args:
        values: numbers, as text.
        bins: label -> upper bound.
        slot: what they fill, for messages.

    Raises:
        ConfigurationError: there are fewer than two bins, bounds do not ascend, or a value is no number or lies above
            the last bin.
    """
    labels, bounds = list(bins), np.array(list(bins.values()), np.float64)
    if len(bounds) < 2 or not (np.diff(bounds) > 0).all():
        raise ConfigurationError(
            f"`bins` of `{slot}` (`--bin`) must be two or more labels with ascending upper bounds, got {dict(bins)}."
        )
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError as error:
        raise ConfigurationError(f"The column of `{slot}` has `bins` (`--bin`) but holds text: {error}.") from error
    if (outside := ~(numbers <= bounds[-1])).any():
        raise ConfigurationError(
            f"The column of `{slot}` holds {numbers[outside][0]}, which is in no bin: give the last one the bound "
            "infinity (`inf`)."
        )
    return [labels[number] for number in np.searchsorted(bounds, numbers)]


def read_bins(texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Bins of slots, from `SLOT:LABEL=BOUND` of a command line.

    Raises:
        ConfigurationError: a text is of another form.
    """
    bins: dict[str, dict[str, float]] = {}
    for text in texts:
        slot, colon, rest = text.partition(":")
        label, mark, bound = rest.rpartition("=")
        try:
            if not (slot and colon and label and mark) or math.isnan(float(bound)):
                raise ValueError
        except ValueError as error:
            raise ConfigurationError(f"`--bin` must be SLOT:LABEL=UPPER_BOUND, got `{text}`.") from error
        bins.setdefault(slot, {})[label] = float(bound)
    return bins
