"""An AnnData in memory, or a backed one, as a source of cells."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from ..errors import CorpusError, require
from ..tokenization.encodings.keys import hash_names
from ..tokenization.encodings.scratch import Scratch
from ..tokenization.expression_matrix import as_csr, data_places, select_counts
from .cell_source import CategoricalColumn, csr_from_arrays

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame


class InMemorySource:
    """The cells of an AnnData; see `CellSource`.

    The matrix of a backed AnnData stays on disk where it is stored by rows, as CSR or dense; any other is brought into
    memory as CSR.

    Args:
        adata: the cells.
        layer: as for `select_counts`.
        expects: what the encoding takes, as for `select_counts`.
        name: source name.

    Raises:
        ExpressionError: there is no such layer, or no matrix of numbers.
    """

    stamp: list[tuple[int, int]] = []
    """Nothing tells that an AnnData was changed."""

    def __init__(
        self, adata: "AnnData", layer: str | None = None, *, expects: str = "counts", name: str = "AnnData"
    ) -> None:
        matrix, self._names, self._ensembl_ids, self.data_name = select_counts(adata, layer, expects=expects)
        self.name = self.location = name
        self.data_places = data_places(adata)
        self._adata, self._is_stored = adata, _is_stored_by_rows(matrix)
        self._matrix = matrix if self._is_stored else _wrapped(as_csr(matrix))
        self.n_cells, self.n_genes = self._matrix.shape

    def genes(self) -> tuple[Sequence[str], Sequence[str] | None]:
        """(n_genes,) names of the columns and their Ensembl ids or None."""
        return self._names, self._ensembl_ids

    def column_names(self) -> list[str]:
        """Names of the columns of `obs`."""
        return list(map(str, self._adata.obs.columns))

    def obs_names(self) -> np.ndarray:
        """(n_cells,) names of the cells."""
        return self._adata.obs_names.to_numpy(object)

    def cell_ids(self, rows: np.ndarray | None = None) -> np.ndarray:
        """(cells,) uint64 made from the names of all cells, or those of `rows`."""
        names = self._adata.obs_names
        return hash_names(names if rows is None else names[rows])

    def column(self, name: str) -> CategoricalColumn:
        """A column of `obs`, whatever its type.

        Raises:
            CorpusError: there is no such column; the message lists those that exist.
        """
        if name not in self._adata.obs:
            raise CorpusError(f"`obs` has no column `{name}`; it has {sorted(self.column_names())}.")
        pandas = require("pandas", extra="anndata")
        values = np.asarray(self._adata.obs[name], dtype=object)
        codes = np.full(len(values), -1)
        known = ~pandas.isna(values)
        codes[known], categories = pandas.factorize(values[known].astype(str).astype(object), sort=True)
        return CategoricalColumn(codes.astype(np.min_scalar_type(-len(categories) - 1)), tuple(categories))

    def obs_frame(self) -> "DataFrame":
        """All columns of `obs`; what belongs to the AnnData is not copied."""
        return self._adata.obs

    def obsm_names(self) -> list[str]:
        """Names of the arrays in `obsm`."""
        return sorted(self._adata.obsm)

    def obsm(self, name: str) -> np.ndarray:
        """(n_cells, …) an array of `obsm`."""
        return np.asarray(self._adata.obsm[name])

    def check_columns(self) -> None:
        """An AnnData has columns of one length."""

    def read(self, rows: np.ndarray, scratch: Scratch | None = None) -> csr_matrix:
        """Read cells.

        Args:
            rows: ascending row numbers.
            scratch: not used: consecutive rows are a view of the matrix.

        Returns:
            (len(rows), n_genes) CSR with the values as they are; column indices are not checked.
        """
        rows = np.asarray(rows, np.int64)
        adjacent = rows.size and rows[-1] - rows[0] + 1 == rows.size
        if self._is_stored:
            return _wrapped(as_csr(self._matrix[rows[0] : rows[-1] + 1] if adjacent else self._matrix[rows, :]))
        if not adjacent:
            return self._matrix[rows]
        indptr = self._matrix.indptr[rows[0] : rows[-1] + 2]
        entries = slice(indptr[0], indptr[-1])
        data, indices = self._matrix.data[entries], self._matrix.indices[entries]
        return csr_from_arrays(data, indices, indptr - indptr[0], self.n_genes)

    def empty_rows(self) -> np.ndarray:
        """Rows without any value, ascending; of a backed AnnData none are known."""
        return np.empty(0, np.int64) if self._is_stored else np.flatnonzero(np.diff(self._matrix.indptr) == 0)

    def stored_rows(self) -> AbstractContextManager[None]:
        """Always yields None: the rows of no file."""
        return nullcontext()

    def close(self) -> None:
        """Does nothing: the AnnData belongs to the caller."""


def _is_stored_by_rows(matrix: Any) -> bool:
    """Whether this is anndata's view of a stored CSR matrix, or a dense (cells, genes) array of h5py or zarr."""
    if hasattr(matrix, "to_memory"):
        return getattr(matrix, "format", None) == "csr"
    return type(matrix).__module__.partition(".")[0] in ("h5py", "zarr") and len(matrix.shape) == 2


def _wrapped(matrix: Any) -> csr_matrix:
    """Anything with CSR arrays as scipy's matrix; nothing is checked or copied."""
    return csr_from_arrays(matrix.data, matrix.indices, matrix.indptr, matrix.shape[1])
