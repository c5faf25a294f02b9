"""The batches, and the labels, of the cells that are integrated."""

from typing import NamedTuple

import numpy as np

from ...errors import ConfigurationError
from ...sources.categories import drop_unlabelled, number_categories
from ...sources.cell_source import CellSource

FEWEST_CELLS = 10
"""A batch with fewer cells cannot be told from chance."""


class Column(NamedTuple):
    """A column of `obs` as numbers.

    Attributes:
        names: its values, sorted.
        numbers: (n_cells,) the number of each cell's value; -1 = none.
    """

    names: list[str]
    numbers: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """(n_cells,) the values, as strings; empty where a cell has none."""
        return np.array([*self.names, ""], dtype=object)[self.numbers]


def read_batches(source: CellSource, key: str | None, fewest: int = 1) -> Column:
    """The batch of each cell.

    Args:
        source: the cells.
        key: column of `obs`.
        fewest: cells that each batch must have.

    Raises:
        ConfigurationError: no column is named, all cells are of one batch, each is a batch of its own, or a batch has
            too few.
        CorpusError: there is no such column, or a cell has no value in it.
    """
    if not key:
        raise ConfigurationError("Name with `batch_key` (`--batch-key`) the column of `obs` with the batches.")
    names, (codes,) = number_categories(key, [source], [None], None)
    batches = Column(names, codes.astype(np.int64))
    sizes = np.bincount(batches.numbers, minlength=len(batches.names))
    if len(sizes) == 1:
        raise ConfigurationError(
            f"All {len(batches.numbers):,} cells are of one batch, {batches.names[0]!r} in `obs[{key!r}]`: there is "
            "nothing to integrate. Name another column with `batch_key` (`--batch-key`)."
        )
    if len(sizes) == len(batches.numbers):
        raise ConfigurationError(
            f"`obs[{key!r}]` has another value for each of the {len(sizes):,} cells: name with `batch_key` "
            "(`--batch-key`) the column of `obs` with the batches."
        )
    if sizes.min() < fewest:
        smallest = batches.names[sizes.argmin()]
        raise ConfigurationError(
            f"Batch {smallest!r} of `obs[{key!r}]` has {sizes.min()} cells, and at least {fewest} "
            "are needed: leave it out, or give its cells the name of a batch that is like it."
        )
    return batches


def read_labels(source: CellSource, key: str) -> Column:
    """The label of each cell, which some may lack.

    Args:
        source: the cells.
        key: column of `obs`.

    Raises:
        ConfigurationError: there are no two labels of two cells or more.
        CorpusError: there is no such column.
    """
    (rows,), _ = drop_unlabelled([source], [None], [key])
    rows = np.arange(source.n_cells) if rows is None else rows
    names, (codes,) = number_categories(key, [source], [rows], None)
    numbers = np.full(source.n_cells, -1)
    numbers[rows] = codes
    labels = Column(names, numbers)
    if (np.bincount(numbers[numbers >= 0], minlength=1) > 1).sum() < 2:
        raise ConfigurationError(
            f"`obs[{key!r}]` has no two labels of two cells or more, it has {labels.names[:5]}: name with `label_key` "
            "(`--label-key`) a column of classes, such as cell types, or leave it out."
        )
    return labels
