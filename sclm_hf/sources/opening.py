"""How paths become sources of cells."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigurationError, CorpusError
from .anndata.h5ad import H5adSource, refuse_h5mu
from .anndata.zarr_folder import AnnDataZarrSource, is_zarr, parts_of
from .cell_source import CellSource
from .shards.parquet import ParquetSource, datasets_of, is_dataset


def open_source(name: str, path: str | Path | CellSource, **options: Any) -> CellSource:
    """The source behind a path: a data set of Parquet shards, an AnnData zarr folder or an .h5ad file.

    What was opened already is returned as it is, with the options that it was opened with.

    Raises:
        CorpusError: nothing is there, or it holds no cells that can be read.
    """
    if hasattr(path, "cell_ids"):
        return path
    path = Path(path)
    if not path.exists():
        raise CorpusError(f"`{path}` does not exist.")
    if path.suffix.lower() in (".h5ad", ".h5") and not path.is_dir():
        return H5adSource(path, name, **options)
    if parts := parts_of(path):
        names = ", ".join(f"`{part.name}`" for part in parts[:3])
        raise CorpusError(f"`{path}` is a collection of {len(parts)} AnnData, {names}, …: name one of them.")
    if is_zarr(path):
        return AnnDataZarrSource(path, name, **options)
    if is_dataset(path):
        return ParquetSource(path, name, **options)
    if path.suffix.lower() == ".parquet":
        raise CorpusError(f"`{path}` is one shard: name the folder that holds `manifest.json`.")
    refuse_h5mu(path)
    raise CorpusError(f"`{path}` is no .h5ad file: write it with `adata.write_h5ad(...)` first.")


def is_one_source(path: Path) -> bool:
    """Whether a path holds one source, not a folder or collection of them."""
    return not path.is_dir() or is_dataset(path) or (is_zarr(path) and not parts_of(path))


def name_paths(
    paths: str | Path | Sequence[str | Path] | Mapping[str, str | Path | CellSource],
) -> dict[str, Path | CellSource]:
    """Give every file its source name: the key of a mapping, else the file name without its suffix or the name of the
    data set.

    Args:
        paths: a file, a folder (all its .h5ad files and AnnData zarr folders, or all data sets of its shards), a zarr
            collection that annbatch wrote, a sequence of these, or a mapping name -> file, or source that was opened.

    Raises:
        CorpusError: there is no file, or two have the same name.
    """
    if isinstance(paths, Mapping):
        named = {str(name): one if hasattr(one, "cell_ids") else Path(one) for name, one in paths.items()}
    else:
        given = [paths] if isinstance(paths, (str, Path)) else list(paths)
        named = {}
        for name, path in (pair for entry in given for pair in _files(Path(entry)).items()):
            if name in named:
                raise CorpusError(
                    f"`{named[name]}` and `{path}` would share the name `{name}`, by which their cells "
                    "are put in order: rename one, or in Python pass a mapping name -> path."
                )
            named[name] = path
    if not named:
        raise CorpusError("A corpus needs at least one file.")
    return named


def select_rows(
    rows: Mapping[str | Path, Any] | None, named: Mapping[str, Path], sources: Sequence[CellSource]
) -> list[np.ndarray | None]:
    """The rows of each source that belong to the corpus, ascending; None = all of them.

    Args:
        rows: source name or path -> row numbers or a boolean mask; sources that it does not mention are used whole.
        named: source name -> path, in the order of `sources`.
        sources: the sources.

    Raises:
        CorpusError: a key is no source, or rows are doubled, out of range or of the wrong kind.
    """
    by_key = {str(key): value for key, value in (rows or {}).items()}
    selected: list[np.ndarray | None] = []
    for source in sources:
        keys = [key for key in dict.fromkeys((source.name, str(named[source.name]))) if key in by_key]
        if len(keys) > 1:
            raise ConfigurationError(f"`rows` names `{source.location}` twice: by its name and by its path.")
        selected.append(_checked_rows(by_key.pop(keys[0]), source) if keys else None)
    if by_key:
        raise CorpusError(f"`rows` names {sorted(by_key)}, but the sources are {sorted(named)}.")
    return selected


def _files(path: Path) -> dict[str, Path]:
    """Source name -> path of what a path holds."""
    if is_one_source(path):
        return {path.name if is_dataset(path) else path.stem: path}
    if parts := parts_of(path):
        return {f"{path.stem}.{part.name}": part for part in parts}
    files = sorted(entry for entry in path.iterdir() if entry.suffix == ".h5ad" or is_zarr(entry))
    pairs = [pair for file in files for pair in _files(file).items()]
    found = datasets_of(path) or dict(pairs)
    if not found:
        raise CorpusError(f"The folder `{path}` holds no .h5ad file, no AnnData zarr folder and no `manifest.json`.")
    if len(found) < len(pairs):
        raise CorpusError(f"Two files in `{path}` share a name: rename one, or in Python pass a mapping name -> path.")
    return found


def _checked_rows(rows: Any, source: CellSource) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.dtype == bool and rows.shape == (source.n_cells,):
        return np.flatnonzero(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise CorpusError(
            f"`rows` of `{source.location}` must be row numbers or a mask of {source.n_cells:,} booleans, got "
            f"{rows.dtype} with shape {rows.shape}."
        )
    rows = np.sort(rows.astype(np.int64))
    if rows.size and (rows[0] < 0 or rows[-1] >= source.n_cells):
        found = f"{rows[0]}..{rows[-1]}"
        raise CorpusError(f"`rows` of `{source.location}` must lie in 0..{source.n_cells - 1}, got {found}.")
    if (np.diff(rows) == 0).any():
        raise CorpusError(f"`rows` of `{source.location}` names row {rows[:-1][np.diff(rows) == 0][0]} twice.")
    return rows
