"""Which cells a model was trained on, or chosen by: a table beside its weights, so that tests on them are recognised.

A cell is known by two hashes. That of its counts is the sum, modulo 2**64, of a word for each gene with a count, made
from the gene's name and the count: neither the order of the columns nor genes without counts change it, a selection of
genes does. That of its name counts only together with the name of the data set, for barcodes repeat.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from ..adapters.settings import find_base
from ..errors import CheckpointError, require
from ..files import require_regular_file, written_whole
from ..logging import progress_bar
from ..opening.files import find_file
from ..opening.names import resolve_name
from ..sources.cell_source import CellSource
from ..tokenization.encodings.kernels import kernel
from ..tokenization.encodings.keys import hash_names, mix

if TYPE_CHECKING:
    from .contents import Contents

MANIFEST = "training_manifest.parquet"
"""Name of the table."""

CELLS_AT_ONCE = 4096
_NUMBERS = ("cell", "counts")

TRAINED, CHOSEN = "train", "chosen"
"""Roles of cells: the model was trained on them; or they were held out, and chose the checkpoint or weights."""


@dataclass(frozen=True)
class TrainingManifest:
    """The cells that a model was trained on or chosen by, those of the model that it started from included.

    Attributes:
        datasets: (n_cells,) name of the source of each cell, as strings.
        cells: (n_cells,) uint64 hashes of the cells' names.
        counts: (n_cells,) uint64 hashes of their counts.
        roles: (n_cells,) `TRAINED` or `CHOSEN`, as strings.
    """

    datasets: np.ndarray
    cells: np.ndarray
    counts: np.ndarray
    roles: np.ndarray

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.cells)

    @classmethod
    def of(cls, corpus: "Contents", role: str = TRAINED) -> "TrainingManifest":
        """The cells of a corpus, each of which is read once."""
        parts = [cls(*(np.empty(0, kind) for kind in (object, np.uint64, np.uint64, object)))]
        with progress_bar(total=sum(corpus.sizes), desc="training manifest", unit="cell") as bar:
            for index, size in enumerate(corpus.sizes):
                if size:
                    rows = corpus.rows_at(index, np.arange(size))
                    parts.append(cls.of_rows(corpus.opened(index), rows, role, bar.update))
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    @classmethod
    def of_rows(
        cls,
        source: CellSource,
        rows: np.ndarray,
        role: str = TRAINED,
        update: Callable[[int], Any] = lambda read: None,
    ) -> "TrainingManifest":
        """Some cells of one source.

        Args:
            source: where they are read.
            rows: (cells,) ascending row numbers.
            role: of all of them.
            update: told how many were read.
        """
        genes, counts = hash_genes(source), [np.empty(0, np.uint64)]
        for first in range(0, len(rows), CELLS_AT_ONCE):
            block = rows[first : first + CELLS_AT_ONCE]
            counts.append(hash_counts(source.read(block), genes))
            update(len(block))
        names, roles = (np.full(len(rows), value, dtype=object) for value in (source.name, role))
        return cls(names, source.cell_ids(rows), np.concatenate(counts), roles)

    def with_cells_of(self, other: "TrainingManifest | None") -> "TrainingManifest":
        """Those of another manifest, then these cells; one of both stands once, trained on if either says so."""
        if other is None:
            return self
        new = ~other.holds(self.datasets, self.cells, self.counts)
        trained = self.part(TRAINED).holds(other.datasets, other.cells, other.counts)
        other = dataclasses.replace(other, roles=np.where(trained, TRAINED, other.roles))
        pairs = zip(other, self, strict=True)
        return TrainingManifest(*(np.concatenate([theirs, ours[new]]) for theirs, ours in pairs))

    def part(self, role: str) -> "TrainingManifest":
        """The cells of one role."""
        return TrainingManifest(*(values[self.roles == role] for values in self))

    def __iter__(self) -> Iterator[np.ndarray]:
        """The columns."""
        return (getattr(self, field.name) for field in dataclasses.fields(self))

    def holds(self, dataset: str | Sequence[str], cells: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Which cells stand here: by their counts, or by name in a data set of the same name.

        Args:
            dataset: name of the data set of all cells, or of each.
            cells: (cells,) uint64 hashes of their names.
            counts: (cells,) uint64 hashes of their counts, from [`hash_counts`].

        Returns:
            (cells,) bool.
        """
        names = np.broadcast_to(np.asarray(dataset, dtype=object), np.shape(cells))
        known = np.isin(_named(names, cells), _named(self.datasets, self.cells))
        return known | np.isin(counts, self.counts)

    def save(self, folder: str | Path) -> None:
        """Write the table into a folder, whole or not at all.

        Raises:
            SclmError: it cannot be written, for example because the disk is full.
        """
        pyarrow = require("pyarrow", extra="corpora")
        parquet = require("pyarrow.parquet", extra="corpora")
        columns = {"dataset": pyarrow.array(self.datasets, pyarrow.string()).dictionary_encode()}
        columns |= {"cell": pyarrow.array(self.cells), "counts": pyarrow.array(self.counts)}
        columns["role"] = pyarrow.array(self.roles, pyarrow.string()).dictionary_encode()
        with written_whole(Path(folder) / MANIFEST) as unfinished:
            parquet.write_table(pyarrow.table(columns), unfinished, compression="zstd")


def read_manifest(name: str, revision: Any = None) -> TrainingManifest | None:
    """The manifest of a folder or repository of a model, None where there is none.

    That of an adapter holds the cells of its base, too; of one that has none, that of the base is read.

    Raises:
        CheckpointError: it is damaged, or an adapter without one names no base.
        HubError: the Hub cannot be reached.
    """
    revision = resolve_name(name, revision)
    path = find_file(name, MANIFEST, revision)
    if path is None and (base := find_base(name, revision)):
        path = find_file(base[0], MANIFEST, base[1])
    if path is None:
        return None
    parquet = require("pyarrow.parquet", extra="corpora")
    require_regular_file(path)
    try:
        table = parquet.read_table(path)
        datasets = table["dataset"].cast("string").to_numpy()
        numbers = [table[column].to_numpy() for column in _NUMBERS]
        roles = np.full(len(datasets), TRAINED, dtype=object)
        # manifests of earlier versions name the cells to train on alone
        if "role" in table.column_names:
            roles = table["role"].cast("string").to_numpy()
    except Exception as error:
        raise CheckpointError(
            f"`{path}` cannot be read as a training manifest ({error}): load the model again, or move the file away."
        ) from error
    if any(array.dtype != np.uint64 for array in numbers) or any(value is None for value in datasets):
        raise CheckpointError(f"`{path}` is no training manifest: hashes must be whole, unsigned 64-bit numbers.")
    if not set(roles) <= {TRAINED, CHOSEN}:
        raise CheckpointError(f"`{path}` is no training manifest: a `role` must be '{TRAINED}' or '{CHOSEN}'.")
    return TrainingManifest(datasets, *numbers, roles)


def hash_genes(source: CellSource) -> np.ndarray:
    """(genes,) uint64: what [`hash_counts`] takes, from the names of the columns."""
    return hash_names([str(name).upper() for name in source.genes()[0]])


def hash_counts(matrix: csr_matrix, genes: np.ndarray) -> np.ndarray:
    """Hashes of the counts of cells.

    Args:
        matrix: (cells, genes) counts.
        genes: (genes,) uint64 from [`hash_genes`].

    Returns:
        (cells,) uint64; 0 for a cell without counts.
    """
    values = np.ascontiguousarray(matrix.data, dtype=np.float32)
    return _hash_counts(values, matrix.indices, np.asarray(matrix.indptr, np.int64), genes)


@kernel
def _hash_counts(values, indices, indptr, genes):
    out, words = np.zeros(indptr.size - 1, np.uint64), values.view(np.uint32)
    for cell in range(out.size):
        for place in range(indptr[cell], indptr[cell + 1]):
            if values[place] != 0:
                out[cell] += mix(genes[indices[place]] ^ mix(np.uint64(words[place])))
    return out


def _named(datasets: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """(cells,) uint64: cells together with their data sets."""
    names, numbers = np.unique(np.asarray(datasets, dtype=str), return_inverse=True)
    keys = hash_names(list(names)) if len(names) else np.empty(0, np.uint64)
    with np.errstate(over="ignore"):
        return cells ^ (keys[numbers] * np.uint64(0x9E3779B97F4A7C15)) if len(names) else cells
