"""Files of cells that are larger than memory, as the tasks see them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from ..errors import require
from ..sources.cell_source import CellSource
from ..sources.opening import open_source


class StoredCells:
    """The cells of an .h5ad file, an AnnData zarr folder or a data set of Parquet shards; looks like an AnnData.

    Its names are in memory, its data and the columns of `obs` are read when they are asked for. `data_name` says where
    the data lie, `stamp` holds sizes and times of the files.

    Args:
        path: the file or folder.
        layer: the layer that holds the data; as for `embed`.
        expects: what the encoding takes.

    Raises:
        CorpusError: nothing is there, or it holds no cells that can be read.
    """

    def __init__(self, path: str | Path, *, layer: str | None = None, expects: str = "counts") -> None:
        pandas = require("pandas", extra="anndata")
        self._source = open_source(Path(path).stem, path, layer=layer, expects=expects)
        # results are written into a copy, which has them all
        self._source.check_columns()
        names, ensembl_ids = self._source.genes()
        self.var = pandas.DataFrame({} if ensembl_ids is None else {"ensembl_id": list(ensembl_ids)}, index=names)
        self.var_names, self.obs_names = self.var.index, self._source.obs_names()
        self.obs = _Columns(self._source)
        self.n_obs, self.raw, self.layers = self._source.n_cells, None, {}
        self.X = StoredMatrix(self._source)
        self.data_name = self._source.data_name

        self.stamp = [list(pair) for pair in self._source.stamp]

    def check_unchanged(self) -> None:
        """Refuse a file that is no longer what was read.

        Raises:
            CorpusError: it changed.
        """
        self._source.read(np.arange(1))


class StoredMatrix:
    """(n_cells, n_genes) matrix of a source, read by rows."""

    format = "csr"

    def __init__(self, source: CellSource) -> None:
        self._source, self.shape = source, (source.n_cells, source.n_genes)

    def __getitem__(self, rows: slice | tuple[np.ndarray, slice]) -> csr_matrix:
        rows = rows[0] if isinstance(rows, tuple) else np.arange(*rows.indices(self.shape[0]))
        return self._source.read(rows)

    def to_memory(self) -> csr_matrix:
        """All rows."""
        return self[:]


class _Columns(Mapping):
    """Columns of `obs`, read one by one."""

    def __init__(self, source: CellSource) -> None:
        self._source, self.columns = source, source.column_names()

    def __getitem__(self, name: str) -> Any:
        column = self._source.column(name)
        return np.array([*column.categories, ""], dtype=object)[column.codes]

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __iter__(self):
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)
