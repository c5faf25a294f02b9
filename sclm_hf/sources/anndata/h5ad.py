"""One .h5ad file as a lazy source of cells."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...errors import CorpusError, require
from ...files import require_regular_file
from ..containment import refuse_datasets_elsewhere, refuse_links, refuse_unbounded
from ..reading_errors import reading_errors_named
from .source import AnnDataSource

_Check = Callable[[Any, Path], None]


def open_h5ad(path: Path, mode: str = "r", *, whole: bool = False) -> Any:
    """Open a .h5ad file that anybody may have made.

    Args:
        path: the file.
        mode: as for `h5py.File`.
        whole: also refuse what cannot be read as a whole, as `anndata.read_h5ad` does.

    Returns:
        An `h5py.File`.

    Raises:
        CorpusError: it is missing, empty, no regular file, not readable here, damaged, or some of it lies in other
            files.
        MissingDependencyError: h5py is not installed.
    """
    return _open(path, mode, [refuse_links, refuse_datasets_elsewhere, *([refuse_unbounded] if whole else [])])


def refuse_h5mu(path: Path) -> None:
    """Raise for a file of several modalities, where cells of one are read.

    Raises:
        CorpusError: its name ends in `.h5mu`.
    """
    if path.suffix.lower() == ".h5mu":
        raise CorpusError(
            f"`{path}` holds several modalities: write the one to read, "
            f"`mudata.read_h5mu({path.name!r})['rna'].write_h5ad('rna.h5ad')`, and give that."
        )


def _open(path: Path, mode: str, checks: Sequence[_Check]) -> Any:
    """The file, if it passes the checks."""
    h5py = require("h5py", extra="anndata")
    require_regular_file(path, CorpusError)
    with reading_errors_named(path, "HDF5 file"):
        if path.stat().st_size == 0:
            raise CorpusError(f"`{path}` is empty (0 bytes).")
        file = h5py.File(path, mode)
        try:
            for check in checks:
                check(file, path)
        except BaseException:
            file.close()
            raise
    return file


class H5adSource(AnnDataSource):
    """A .h5ad file whose rows are read when they are asked for; see [`AnnDataSource`]."""

    def _open_store(self) -> Any:
        # once its key is known the links were checked, and it is read only as long as its stamp stays the same
        return _open(self.path, "r", [] if self._key else [refuse_links])

    def _check(self, store: Any) -> None:
        refuse_datasets_elsewhere(store, self.path)
        super()._check(store)

    def _close_store(self, store: Any) -> None:
        store.close()
