"""What is asked of a source of cells, whatever they lie in."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.sparse import csr_matrix

from ..tokenization.encodings.scratch import Scratch
from ..tokenization.encodings.stored import StoredRows

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class CategoricalColumn:
    """A column of `obs` in compact form.

    Attributes:
        codes: (cells,) small integers, positions in `categories`; -1 = no value.
        categories: the different values, as strings.
    """

    codes: np.ndarray
    categories: tuple[str, ...]


class CellSource(Protocol):
    """Cells that can be read by row number. Sources are small to pickle and open what they need when they need it.

    Attributes:
        name: stands for the source where the order of an epoch is drawn: the same name, the same order.
        location: where the cells are, for messages.
        n_cells: number of rows.
        n_genes: number of columns of the matrices that `read` returns.
        data_name: where in the store they lie, as `select_counts` says it.
        data_places: where the store has data, as `layer` names it.
        stamp: (size, time) of the files, which change when the cells do.
    """

    name: str
    location: str
    n_cells: int
    n_genes: int
    data_name: str
    data_places: tuple[str, ...]
    stamp: list[tuple[int, int]]

    def genes(self) -> tuple[Sequence[str], Sequence[str] | None]:
        """(n_genes,) names of the columns, and their Ensembl ids or None."""

    def column_names(self) -> list[str]:
        """Names of the columns of `obs`."""

    def obs_names(self) -> np.ndarray:
        """(n_cells,) names of the cells."""

    def cell_ids(self, rows: np.ndarray | None = None) -> np.ndarray:
        """What the random draws about cells are keyed by, made from their names.

        Args:
            rows: (cells,) row numbers; None = all.

        Returns:
            (cells,) uint64.
        """

    def column(self, name: str) -> CategoricalColumn:
        """A column of `obs`."""

    def obs_frame(self) -> "DataFrame":
        """All columns of `obs`, with the names of the cells as its index."""

    def obsm_names(self) -> list[str]:
        """Names of the arrays in `obsm`."""

    def obsm(self, name: str) -> np.ndarray:
        """(n_cells, …) an array of `obsm`."""

    def check_columns(self) -> None:
        """Refuse a source whose columns of `obs` are not all as long as it has cells."""

    def read(self, rows: np.ndarray, scratch: Scratch | None = None) -> csr_matrix:
        """The cells `rows` (ascending row numbers) with their values as stored.

        With a `scratch`, what is returned may lie there, until the scratch is used again.
        """

    def empty_rows(self) -> np.ndarray:
        """Rows without any value, ascending, as far as that can be told without reading the cells."""

    def stored_rows(self) -> AbstractContextManager[StoredRows | None]:
        """Where the matrix lies in a file, until the context ends; None where it is not stored uncompressed."""

    def close(self) -> None:
        """Let go of open files; the next read opens them again."""


def csr_from_arrays(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, n_genes: int) -> csr_matrix:
    """A CSR matrix around arrays that scipy neither scans nor copies: checking values belongs to the encoding."""
    # a copy takes a tenth of the time of a new matrix
    matrix = copy(_empty_csr(len(indptr) - 1, n_genes))
    matrix.data, matrix.indices, matrix.indptr = data, indices, indptr
    return matrix


@lru_cache(maxsize=16)
def _empty_csr(n_cells: int, n_genes: int) -> csr_matrix:
    return csr_matrix((n_cells, n_genes), dtype=np.float32)
