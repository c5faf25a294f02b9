"""One .h5ad file as a lazy source of cells."""

from typing import Any

from ..errors import CorpusError, require
from .anndata_source import AnnDataSource


class H5adSource(AnnDataSource):
    """A .h5ad file whose rows are read when they are asked for; see [`AnnDataSource`]."""

    def _open_store(self) -> Any:
        h5py = require("h5py", extra="anndata")
        if self.path.stat().st_size == 0:
            raise CorpusError(f"`{self.path}` is empty (0 bytes).")
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            kind = "truncated or damaged" if "truncated" in str(error) else "no HDF5 file, or damaged"
            raise CorpusError(f"`{self.path}` is {kind}: {error}") from error

    def _close_store(self, store: Any) -> None:
        store.close()
