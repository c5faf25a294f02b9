"""Reading and writing `.h5ad` files: problems are reported before the work, and no file is left half written."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigurationError, CorpusError, require
from ...files import check_output_file, check_replaced, written_whole

if TYPE_CHECKING:
    from anndata import AnnData


def read_h5ad(path: str | Path) -> "AnnData":
    """Read an `.h5ad` file.

    Raises:
        CorpusError: there is no such file, it is not a readable `.h5ad`, or links in it lead to other files.
    """
    from ...sources.anndata.h5ad import open_h5ad
    from ...sources.reading_errors import reading_errors_named

    anndata = require("anndata", extra="anndata")
    path = Path(path)
    if not path.exists():
        raise CorpusError(f"There is no file `{path}`.")
    open_h5ad(path, whole=True).close()
    with reading_errors_named(path, "`.h5ad` file"):
        return anndata.read_h5ad(path)


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
