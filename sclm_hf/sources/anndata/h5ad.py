"""One .h5ad file as a lazy source of cells."""

from pathlib import Path
from typing import Any

from ...errors import CorpusError, require
from ...files import require_regular_file
from ..containment import refuse_links, refuse_unbounded
from ..reading_errors import reading_errors_named
from .source import AnnDataSource


def open_h5ad(path: Path, mode: str = "r", *, check_links: bool = True, whole: bool = False) -> Any:
    """Open a .h5ad file that anybody may have made.

    Args:
        path: the file.
        mode: as for `h5py.File`.
        check_links: refuse a file whose links lead out of it; False where it was checked and has not changed.
        whole: also refuse what cannot be read as a whole, as `anndata.read_h5ad` does.

    Returns:
        An `h5py.File`.

    Raises:
        CorpusError: it is missing, empty, no regular file, not readable here, damaged, or holds links that lead out
            of it.
        MissingDependencyError: h5py is not installed.
    """
    h5py = require("h5py", extra="anndata")
    require_regular_file(path, CorpusError)
    with reading_errors_named(path, "HDF5 file"):
        if path.stat().st_size == 0:
            raise CorpusError(f"`{path}` is empty (0 bytes).")
        file = h5py.File(path, mode)
        try:
            if check_links:
                refuse_links(file, path)
            if whole:
                refuse_unbounded(file, path)
        except BaseException:
            file.close()
            raise
    return file


class H5adSource(AnnDataSource):
    """A .h5ad file whose rows are read when they are asked for; see [`AnnDataSource`]."""

    def _open_store(self) -> Any:
        # once its key is known the file was checked, and is read only as long as its stamp stays the same
        return open_h5ad(self.path, check_links=not self._key)

    def _close_store(self, store: Any) -> None:
        store.close()
