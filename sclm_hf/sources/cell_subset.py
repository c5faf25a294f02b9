"""Some cells of a source, as if it had no others."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from ..tokenization.encodings.scratch import Scratch
from .cell_source import CategoricalColumn, CellSource

if TYPE_CHECKING:
    from pandas import DataFrame


class CellSubset:
    """A `CellSource` with some of the cells of another one.

    Args:
        whole: the other source.
        rows: (cells,) ascending rows of it.

    Attributes:
        whole: the other source.
        rows: (n_cells,) ascending rows of it.
    """

    def __init__(self, whole: CellSource, rows: np.ndarray) -> None:
        self.whole, self.rows = whole, np.asarray(rows, np.int64)
        if isinstance(whole, CellSubset):
            self.whole, self.rows = whole.whole, whole.rows[self.rows]
        self.n_cells = len(self.rows)

    def __getattr__(self, name: str) -> Any:
        # while it is unpickled there is no other source yet
        if name.startswith("__") or name == "whole":
            raise AttributeError(name)
        return getattr(self.whole, name)

    def obs_names(self) -> np.ndarray:
        """(n_cells,) names of the cells."""
        return self.whole.obs_names()[self.rows]

    def cell_ids(self, rows: np.ndarray | None = None) -> np.ndarray:
        """(cells,) uint64 made from the names of all cells, or those of `rows`."""
        return self.whole.cell_ids(self.rows if rows is None else self.rows[rows])

    def column(self, name: str) -> CategoricalColumn:
        """A column of `obs`; some of its categories may have no cells."""
        column = self.whole.column(name)
        return CategoricalColumn(column.codes[self.rows], column.categories)

    def obs_frame(self) -> "DataFrame":
        """All columns of `obs`."""
        return self.whole.obs_frame().iloc[self.rows]

    def obsm(self, name: str) -> np.ndarray:
        """(n_cells, …) an array of `obsm`."""
        return self.whole.obsm(name)[self.rows]

    def read(self, rows: np.ndarray, scratch: Scratch | None = None) -> csr_matrix:
        """Read cells; see `CellSource`."""
        return self.whole.read(self.rows[rows], scratch)

    def empty_rows(self) -> np.ndarray:
        """Rows without any value, ascending, as far as the other source knows them."""
        return np.flatnonzero(np.isin(self.rows, self.whole.empty_rows()))

    @contextmanager
    def stored_rows(self) -> Iterator[None]:
        """Always None: rows of a file are those of all cells."""
        yield None


def some_cells(source: CellSource, rows: np.ndarray) -> CellSource:
    """A source with the cells `rows` (ascending) of another one, which it is itself where these are all."""
    return source if len(rows) == source.n_cells else CellSubset(source, rows)
