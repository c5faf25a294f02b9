"""One AnnData zarr folder, format 2 or 3, as a lazy source of cells."""

from pathlib import Path
from typing import Any

from ...errors import CorpusError, require
from ...files import read_json_object
from ..containment import refuse_entries_out, refuse_entry_out
from .source import AnnDataSource

_METADATA = (".zgroup", ".zarray", "zarr.json")


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr group."""
    return (path / ".zgroup").is_file() or (path / "zarr.json").is_file()


def parts_of(path: Path) -> list[Path]:
    """The AnnData folders of a zarr collection, as annbatch writes it, sorted; none for anything else.

    Raises:
        CorpusError: an entry leads out of the folder, or its metadata cannot be read.
    """
    if not is_zarr(path) or _encoding(path) == "anndata":
        return []
    entries = sorted(entry for entry in path.iterdir() if is_zarr(entry))
    for entry in entries:
        refuse_entry_out(entry, path)
    return [entry for entry in entries if _encoding(entry) == "anndata"]


def _encoding(path: Path) -> Any:
    """What the attributes of a zarr group say that it encodes."""
    if (path / "zarr.json").is_file():
        attributes = read_json_object(path / "zarr.json", CorpusError).get("attributes")
    else:
        attributes = read_json_object(path / ".zattrs", CorpusError) if (path / ".zattrs").is_file() else {}
    return attributes.get("encoding-type") if isinstance(attributes, dict) else None


class AnnDataZarrSource(AnnDataSource):
    """A folder that `AnnData.write_zarr` wrote, whose rows are read when they are asked for; see [`AnnDataSource`].

    zarr reads a missing chunk as zeros. So a sparse matrix that lacks a chunk is refused when it is opened, and one
    whose chunks come or go later counts as changed; of a dense matrix, chunks of zeros may rightly be missing.
    """

    # a chunk is decompressed anew for each read
    _max_gap = 256
    # chunks may vanish
    _stays_sound = False

    def _open_store(self) -> Any:
        zarr = require("zarr", extra="corpora")
        refuse_entries_out(self.path)
        # chunks are looked at one by one, so consolidated metadata would only be a second, perhaps stale truth
        return zarr.open_group(self.path, mode="r", use_consolidated=False)

    def _close_store(self, store: Any) -> None:
        store.store.close()

    def _stamp_paths(self) -> list[Path]:
        matrix = self.path / self._key.strip("/")
        folders = [self.path, matrix, *(matrix / part for part in ("indptr", "indices", "data"))]
        candidates = [folder / name for folder in folders for name in (*_METADATA, "c")]
        return [path for path in (*folders, *candidates) if path.exists()] if self.path.exists() else [self.path]
