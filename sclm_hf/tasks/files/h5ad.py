"""Reading and writing `.h5ad` and `.h5mu` files: problems are told before the work, no file is left half written."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError, CorpusError, require
from ...files import check_output_file, check_replaced, written_whole

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

PAIRED = ".h5mu"
"""How files of several modalities end."""


def read_h5ad(path: str | Path) -> "AnnData":
    """Read an `.h5ad` file.

    Raises:
        CorpusError: there is no such file, it is not a readable `.h5ad`, or links in it lead to other files.
    """
    from ...sources.anndata.h5ad import refuse_h5mu

    refuse_h5mu(Path(path))
    return _read_whole(Path(path), require("anndata", extra="anndata").read_h5ad)


def read_modalities(path: str | Path) -> "AnnData | MuData":
    """Read an `.h5mu` file; or an `.h5ad` file, as [`read_h5ad`] does.

    Raises:
        CorpusError: as for [`read_h5ad`].
        MissingDependencyError: `mudata` is not installed.
    """
    if Path(path).suffix != PAIRED:
        return read_h5ad(path)
    return _read_whole(Path(path), require("mudata", extra="mudata").read_h5mu)


def read_frames(path: Path) -> "AnnData":
    """Read `obs` and `var` of an `.h5ad` file, without its matrices.

    Raises:
        CorpusError: as for [`read_h5ad`].
    """
    from ...sources.anndata.h5ad import refuse_h5mu

    def read(path: Path) -> Any:
        anndata, h5py = require("anndata", extra="anndata"), require("h5py", extra="anndata")
        with h5py.File(path, "r") as file:
            return anndata.AnnData(obs=anndata.io.read_elem(file["obs"]), var=anndata.io.read_elem(file["var"]))

    refuse_h5mu(path)
    return _read_whole(path, read)


def _read_whole(path: Path, read: Callable[[Path], Any]) -> Any:
    from ...sources.anndata.h5ad import open_h5ad
    from ...sources.reading_errors import reading_errors_named

    if not path.exists():
        raise CorpusError(f"There is no file `{path}`.")
    open_h5ad(path, whole=True).close()
    with reading_errors_named(path, f"`{path.suffix}` file"):
        return read(path)


def check_output(path: str | Path, *, source: str | Path, overwrite: bool) -> Path:
    """Make sure that `path` can be written later.

    Raises:
        ConfigurationError: it is the `source` of the cells, or exists and `overwrite` is False, or it is no file, or
            its folder is missing or not writable.
    """
    path = Path(path)
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise ConfigurationError(f"`{path}` is the source itself: name another file to write.")
    check_output_file(path)
    check_replaced(path, overwrite=overwrite)
    return path


def write_modalities(cells: "AnnData | MuData", path: str | Path) -> None:
    """Write an `.h5mu` file; or an `.h5ad` file, as [`write_h5ad`] does.

    Raises:
        SclmError: it cannot be written.
    """
    if not hasattr(cells, "mod"):
        write_h5ad(cells, path)
        return
    with written_whole(Path(path)) as unfinished:
        require("mudata", extra="mudata").write_h5mu(unfinished, cells)


def write_h5ad(adata: "AnnData", path: str | Path) -> None:
    """Write `adata` whole or not at all: `path` holds the old file or the new one.

    Raises:
        SclmError: it cannot be written.
    """
    h5py, io = require("h5py", extra="anndata"), require("anndata", extra="anndata").io
    # in memory first: HDF5 does not survive a full disk
    content = BytesIO()
    with h5py.File(content, "w") as file:
        adata.strings_to_categoricals()
        io.write_elem(file, "/", adata)
    with written_whole(Path(path)) as unfinished:
        unfinished.write_bytes(content.getbuffer())
