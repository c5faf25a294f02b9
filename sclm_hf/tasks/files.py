"""`.h5ad` files in and out: what cannot be read or written is told before the work, and no half file is left."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigurationError, CorpusError, require

if TYPE_CHECKING:
    from anndata import AnnData


def read_h5ad(path: str | Path) -> "AnnData":
    """Read an `.h5ad` file.

    Raises:
        CorpusError: there is no such file, it is not a readable `.h5ad`, or links in it lead to other files.
    """
    from ..corpora.h5ad import open_h5ad

    anndata = require("anndata", extra="anndata")
    path = Path(path)
    if not path.exists():
        raise CorpusError(f"There is no file `{path}`.")
    open_h5ad(path).close()
    try:
        return anndata.read_h5ad(path)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorpusError(
            f"`{path}` cannot be read as `.h5ad`; it may be truncated or of another kind: {error}"
        ) from error


def check_output(path: str | Path, *, overwrite: bool) -> Path:
    """Make sure that `path` can be written later.

    Raises:
        ConfigurationError: it exists and `overwrite` is False, or its folder is missing or not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigurationError(f"`{path}` is a folder: name the `.h5ad` file to write.")
    if path.exists() and not overwrite:
        raise ConfigurationError(f"`{path}` exists: choose another name, or pass `--overwrite`.")
    folder = path.resolve().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigurationError(f"`{path}` cannot be written: its folder is missing or not writable.")
    return path


def write_h5ad(adata: "AnnData", path: str | Path) -> None:
    """Write `adata` beside `path` and move it there when it is complete: `path` holds the old file or the new one."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        adata.write_h5ad(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
