"""Samples of a source: the cells that a model whose tokens are cells must see together."""

from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigurationError
from ..logging import warn
from .categories import number_categories
from .cell_source import CellSource

SAMPLE_COLUMN = "batch"
"""Column of `obs` that tells samples apart unless another one is named."""


class Samples(NamedTuple):
    """Which cells of a source belong together.

    Attributes:
        column: the column of `obs` that says so; None = all cells are one sample.
        names: its values, sorted; `""` for the one sample of all cells.
        places: (cells,) ascending places of each sample among the cells used.
    """

    column: str | None
    names: list[str]
    places: list[np.ndarray]

    def to_dict(self) -> dict[str, Any]:
        """What a record says of them."""
        return {"column": self.column, "number": len(self.names)}


def find_samples(source: CellSource, column: str | None, rows: np.ndarray | None = None, *, setting: str) -> Samples:
    """Tell the samples of a source apart.

    Args:
        source: the source.
        column: column of `obs`; None = `obs["batch"]`, without which all cells are one sample.
        rows: the rows used of it; None = all.
        setting: what names the column, for messages.

    Raises:
        ConfigurationError: the column named is not there, or has another value for each cell.
        CorpusError: a cell used has no value in it.
    """
    columns, n_cells = source.column_names(), source.n_cells if rows is None else len(rows)
    source.close()
    if column is None and SAMPLE_COLUMN not in columns:
        # the same words for every part of a source, so that they are said once
        warn(
            f"`{source.location}` has no `obs[{SAMPLE_COLUMN!r}]`: its cells are taken for one sample; name the "
            f"column that tells samples apart with {setting}."
        )
        return Samples(None, [""], [np.arange(n_cells)])
    column = column or SAMPLE_COLUMN
    if column not in columns:
        raise ConfigurationError(
            f"{setting} must name the column of `obs` that tells samples apart, got {column!r}; "
            f"there are {columns} in `{source.location}`."
        )
    names, (codes,) = number_categories(column, [source], [rows], None)
    if len(names) == n_cells > 1:
        raise ConfigurationError(
            f"`{source.location}`: `obs[{column!r}]` has another value for each of the {n_cells:,} cells, and no "
            f"sample would have more than one: name with {setting} the column that tells samples apart."
        )
    ends = np.cumsum(np.bincount(codes))
    return Samples(column, names, np.split(np.argsort(codes, kind="stable"), ends[:-1]))
