"""Columns of `obs` that are no labels."""

import re
from collections.abc import Sequence

from ..errors import ConfigurationError

FEWEST_CELLS_A_LABEL, FEWEST_CELLS_A_NUMBER = 2, 10
"""Fewest cells per label, on average; more where all labels are numbers, which may be measurements."""

FEWEST_CELLS = 20
"""With fewer cells to train on, any column may hold labels."""


def check_label_column(column: str, present: Sequence[str], n_cells: int, setting: str) -> None:
    """Refuse a column of names of cells or of measurements.

    Args:
        column: its name.
        present: the labels that occur.
        n_cells: how many cells have one.
        setting: what names the column.

    Raises:
        ConfigurationError: hardly two cells have the same label.
    """
    numeric = all(re.fullmatch(r"[+-]?\d*\.?\d+(e[+-]?\d+)?", value, re.ASCII) for value in present)
    needed = FEWEST_CELLS_A_NUMBER if numeric else FEWEST_CELLS_A_LABEL
    if n_cells >= FEWEST_CELLS and n_cells < needed * len(present):
        raise ConfigurationError(
            f"`obs[{column!r}]` holds {len(present):,} different {'numbers' if numeric else 'values'} in {n_cells:,} "
            f"cells, for example {', '.join(map(repr, present[:3]))}: a label must name at least {needed} cells on "
            f"average. Name with {setting} a column of classes, such as cell types."
        )
