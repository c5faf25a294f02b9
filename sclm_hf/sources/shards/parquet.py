"""One data set of our Parquet shards as a lazy source of cells."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from ...errors import CorpusError
from ...tokenization.encodings.scratch import Scratch
from ..categories import frame_of
from ..cell_source import CategoricalColumn
from ..containment import refuse_entry_out
from ..reading_errors import reading_errors_named
from .manifest import MANIFEST_FILE, read_manifest
from .schema import check_shard, integer_type, open_shard, read_counts, read_facts, read_ids, read_texts

if TYPE_CHECKING:
    from pandas import DataFrame

# the gene table stands in the footer of each shard, and is held while the shard is open
_MAX_OPEN_SHARDS = 16


def datasets_of(folder: Path) -> dict[str, Path]:
    """Name -> folder of the data sets of a folder of shards, empty when it is none."""
    if not (folder / MANIFEST_FILE).exists():
        return {}
    return {name: folder / "data" / name for name in read_manifest(folder).datasets}


def is_dataset(path: Path) -> bool:
    """Whether a folder is that of one data set in a folder of shards."""
    return path.parent.name == "data" and (path.parent.parent / MANIFEST_FILE).exists()


class ParquetSource:
    """The shards of one data set, whose rows are read when they are asked for.

    Opening reads the manifest and looks at the sizes of the shards. A read decodes the row groups that hold its rows,
    so blocks of a whole number of row groups (32 cells) are read without waste.

    Args:
        path: folder of the data set, `<folder>/data/<dataset>`.
        name: source name; the data set's name by default.
        layer: must be None: shards hold raw counts and nothing else.
        expects: what the encoding takes; not looked at here.
        lazy: not looked at either: opening reads no shard.

    Raises:
        CorpusError: the manifest or a shard is missing or damaged, a layer was asked for, or there are no cells.
    """

    def __init__(
        self,
        path: str | Path,
        name: str | None = None,
        *,
        layer: str | None = None,
        expects: str = "counts",
        lazy: bool = False,
    ) -> None:
        self.path = Path(path)
        self.name = self.path.name if name is None else name
        self.location = str(self.path)
        if layer is not None:
            raise CorpusError(f"`{self.path}` holds raw counts and no layer `{layer}`: leave out `layer` (`--layer`).")
        folder = self.path.parent.parent
        manifest = read_manifest(folder)
        if self.path.name not in manifest.datasets:
            raise CorpusError(f"`{folder / MANIFEST_FILE}` names no data set `{self.path.name}`.")
        dataset = manifest.datasets[self.path.name]
        self._shards = dataset.shards
        self._files = [folder / shard.file for shard in dataset.shards]
        for file in self._files:
            refuse_entry_out(file, folder)
        self._begins = np.cumsum([0, *(shard.n_cells for shard in dataset.shards)])
        self._row_group_size, self.obs_columns = manifest.row_group_size, manifest.obs_columns
        self.n_cells, self.n_genes = dataset.n_cells, dataset.n_genes
        self._count_type = integer_type(max((shard.largest_count for shard in dataset.shards), default=0))
        if not self.n_cells or not self.n_genes or not self._row_group_size:
            raise CorpusError(f"`{self.path}` has {self.n_cells} cells and {self.n_genes} genes.")
        self.stamp = [self._stamp(number) for number in range(len(self._files))]
        for shard, (size, _) in zip(dataset.shards, self.stamp, strict=True):
            if size != shard.n_bytes:
                raise CorpusError(
                    f"`{folder / shard.file}` has {size:,} bytes, but the manifest says {shard.n_bytes:,}: it is "
                    "truncated or was replaced; `sclm-hf corpus check` names all such files."
                )
        self._open: dict[int, Any] = {}
        self._ids: dict[int, np.ndarray] = {}
        self._pid = os.getpid()

    data_name = "counts"
    data_places = ("counts",)
    """Where in the shards the data lie."""

    def genes(self) -> tuple[Sequence[str], Sequence[str] | None]:
        """(n_genes,) names of the genes and their Ensembl ids or None."""
        with reading_errors_named(self._files[0], "shard"):
            facts = read_facts(self._shard(0))
        if len(facts.gene_names) != self.n_genes:
            raise CorpusError(
                f"`{self._files[0]}` has {len(facts.gene_names)} genes, the manifest says {self.n_genes}."
            )
        return facts.gene_names, facts.ensembl_ids

    def column_names(self) -> list[str]:
        """Names of the columns of `obs`."""
        return list(self.obs_columns)

    def obs_names(self) -> np.ndarray:
        """(n_cells,) names of the cells.

        Raises:
            CorpusError: a cell has none, or that of another one.
        """
        with reading_errors_named(self.path, "data set of shards"):
            codes, texts = self._texts("cell_name")
            if (codes < 0).any():
                raise CorpusError(f"{(codes < 0).sum():,} of its cells have no `cell_name`")
            if len(texts) < len(codes):
                raise CorpusError(f"{len(codes) - len(texts):,} of its cells have the `cell_name` of another one")
            return texts[codes]

    def cell_ids(self, rows: np.ndarray | None = None) -> np.ndarray:
        """(cells,) uint64 ids that stand in the shards, of all cells or of `rows` (ascending)."""
        rows = np.arange(self.n_cells) if rows is None else np.asarray(rows, np.int64)
        shards = np.searchsorted(self._begins, rows, "right") - 1
        parts = [self._ids_of(number)[rows[shards == number] - self._begins[number]] for number in np.unique(shards)]
        return np.concatenate([np.empty(0, np.uint64), *parts])

    def column(self, name: str) -> CategoricalColumn:
        """A column of `obs`.

        Raises:
            CorpusError: there is no such column; the message lists those that exist.
        """
        if name not in self.obs_columns:
            raise CorpusError(f"`{self.path}` has no obs column `{name}`; it has {sorted(self.obs_columns)}.")
        with reading_errors_named(self.path, "data set of shards"):
            codes, texts = self._texts(name)
        return CategoricalColumn(codes.astype(np.min_scalar_type(-len(texts) - 1)), tuple(texts.tolist()))

    def obs_frame(self) -> "DataFrame":
        """All columns of `obs`, as categories.

        Raises:
            CorpusError: a cell has no name, or that of another one.
        """
        return frame_of(self)

    def obsm_names(self) -> list[str]:
        """None: shards hold no `obsm`."""
        return []

    def obsm(self, name: str) -> np.ndarray:
        """Shards hold no `obsm`.

        Raises:
            CorpusError: always.
        """
        raise CorpusError(f"`{self.path}` holds raw counts and no `obsm`, such as {name!r}: take the .h5ad file.")

    def check_columns(self) -> None:
        """Columns are as long as their shard: that was compared when it was opened."""

    def read(self, rows: np.ndarray, scratch: Scratch | None = None) -> csr_matrix:
        """Read cells.

        Args:
            rows: ascending row numbers.
            scratch: of no use here: row groups are decoded into memory of their own.

        Returns:
            (len(rows), n_genes) CSR with the counts; column indices are not checked.

        Raises:
            CorpusError: a shard vanished, changed since it was opened, or is damaged.
        """
        rows = np.asarray(rows, dtype=np.int64)
        shards = np.searchsorted(self._begins, rows, "right") - 1
        parts = [self._read(number, rows[shards == number]) for number in np.unique(shards)]
        if not parts:
            return csr_matrix((0, self.n_genes), dtype=self._count_type)
        counts = [np.diff(part.indptr) for part in parts]
        matrix = csr_matrix((len(rows), self.n_genes), dtype=self._count_type)
        matrix.data = np.concatenate([part.data for part in parts]).astype(self._count_type, copy=False)
        matrix.indices = np.concatenate([part.indices for part in parts])
        matrix.indptr = np.concatenate([[0], *counts]).cumsum(dtype=np.int64)
        return matrix

    def empty_rows(self) -> np.ndarray:
        """None are known: that would take reading the cells."""
        return np.empty(0, np.int64)

    def stored_rows(self) -> AbstractContextManager[None]:
        """Always None: shards are compressed, so rows cannot be read in place."""
        return nullcontext()

    def close(self) -> None:
        """Close the shards; the next read opens them again."""
        for file in self._open.values():
            file.close()
        self._open, self._ids = {}, {}

    def _read(self, number: int, rows: np.ndarray) -> csr_matrix:
        rows = rows - self._begins[number]
        groups = rows // self._row_group_size
        wanted = np.unique(groups)
        places = np.searchsorted(wanted, groups) * self._row_group_size + rows % self._row_group_size
        with reading_errors_named(self._files[number], "shard"):
            return read_counts(self._shard(number), wanted.tolist(), self.n_genes)[places]

    def _ids_of(self, number: int) -> np.ndarray:
        if number not in self._ids:
            with reading_errors_named(self._files[number], "shard"):
                self._ids[number] = read_ids(self._shard(number))
        return self._ids[number]

    def _texts(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A column of all shards, as [`read_texts`] gives that of one."""
        codes: list[np.ndarray] = []
        numbers: dict[str, int] = {}
        for number, path in enumerate(self._files):
            with reading_errors_named(path, "shard"):
                found, texts = read_texts(path, self._shard(number), name)
            places = [numbers.setdefault(text, len(numbers)) for text in texts.tolist()]
            codes.append(np.array([*places, -1])[found])
        return np.concatenate(codes), np.array([*numbers, None], object)[:-1]

    def _shard(self, number: int) -> Any:
        """An open shard, checked against the manifest; the one unused for longest is closed when too many are open."""
        if self._stamp(number) != self.stamp[number]:
            raise CorpusError(f"`{self._files[number]}` changed while the corpus was in use: open the corpus again.")
        if self._pid != os.getpid():
            # a handle that came over a fork shares its place in the file with the parent's
            self._open, self._pid = {}, os.getpid()
        file = self._open.pop(number, None)
        if file is None:
            file = open_shard(self._files[number])
            check_shard(file, self._shards[number], self.n_genes, self.obs_columns, self._row_group_size)
        self._open[number] = file
        if len(self._open) > _MAX_OPEN_SHARDS:
            self._open.pop(next(iter(self._open))).close()
        return file

    def _stamp(self, number: int) -> tuple[int, int]:
        try:
            status = os.stat(self._files[number])
        except OSError as error:
            raise CorpusError(f"`{self._files[number]}` cannot be read: {error.strerror}.") from error
        return status.st_size, status.st_mtime_ns

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_ids": {}}

    def __repr__(self) -> str:
        return f"ParquetSource({self.location!r}, {self.n_cells:,} cells × {self.n_genes:,} genes)"
