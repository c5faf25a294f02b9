"""The cells of a source, checked and mapped to the vocabulary of a model before any of them is run."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError, ExpressionError
from ...sources.categories import labelled_column, numbers_of, values_of
from ...sources.cell_source import CellSource
from ...sources.gene_subset import GeneSubset
from ...sources.in_memory import InMemorySource
from ...sources.samples import Samples, find_samples
from ...sources.soundness import cells_named
from ...sources.survey import row_blocks, survey_cells
from ...tokenization.encodings.cells import CellTokens, joined
from .settings import GENES

if TYPE_CHECKING:
    from anndata import AnnData

    from ...opening.loading import LoadedModel
    from ...tokenization.genes.gene_vocabulary import GeneCoverage
    from ...tokenization.processing_cell import CellProcessor

_BATCH_KEY = "`batch_key` (`--batch-key`)"


@dataclass(frozen=True)
class PreparedCells:
    """The cells of a source, checked and mapped to a vocabulary.

    Attributes:
        source: where the cells are read.
        gene_ids: (n_genes,) int64, -1 = column not used.
        cell_ids: (n_cells,) uint64, made from the names of the cells.
        lengths: (n_cells,) int64, tokens of each cell.
        batch_labels: (n_cells,) int64, or None.
        coverage: what became of the genes.
        samples: which cells the model must see together; None where it sees each alone.
        part: the cells that are run, of those that are seen alone; from the first of a block to the last of one.
    """

    source: CellSource
    gene_ids: np.ndarray
    cell_ids: np.ndarray
    lengths: np.ndarray
    batch_labels: np.ndarray | None
    coverage: "GeneCoverage"
    samples: Samples | None = None
    part: slice = field(default_factory=lambda: slice(None))

    @functools.cached_property
    def names(self) -> Sequence[str]:
        """(n_cells,) names of the cells."""
        return self.source.obs_names()

    def tokens(self, processor: "CellProcessor", rows: np.ndarray, seed: int) -> CellTokens:
        """The tokens of cells, in the order given; a block of them is read at a time.

        Args:
            processor: encodes them.
            rows: (cells,) different rows.
            seed: seed of what is random about a cell.
        """
        order = np.argsort(rows)
        parts = [order[block] for block in row_blocks(len(rows))]
        return joined([self._encoded(processor, rows[part], seed) for part in parts], parts)

    def _encoded(self, processor: "CellProcessor", rows: np.ndarray, seed: int) -> CellTokens:
        """The tokens of cells that are read together, in ascending order."""
        matrix, ids = self.source.read(rows), self.cell_ids[rows]

        def encode(places: np.ndarray) -> CellTokens:
            return processor.tokens(matrix, self.gene_ids, cell_ids=ids[places], rows=places, seed=seed, check=False)

        with cells_named(self.source, matrix, rows, processor.feature_extractor.expects, encode):
            return encode(np.arange(len(rows)))


def prepare_cells(
    cells: "AnnData | CellSource",
    loaded: "LoadedModel",
    *,
    layer: str | None = None,
    species: str | None = None,
    batch_key: str | None = None,
    genes: Sequence[str] | None = None,
) -> PreparedCells:
    """Map the genes of cells, and raise now what would fail later; the cells are read once.

    Args:
        cells: an AnnData, or a source that was opened.
        loaded: the model and its processor.
        layer: where the data of an AnnData are, as for `select_counts`; a source was opened with it.
        species: species of the cells, as for `CellProcessor.map_genes`.
        batch_key: column of `obs` with the batches, for models trained with batch labels: their names where
            `config.batch_names` holds these, else their numbers. For models of samples, the column that tells samples
            apart; by default `obs["batch"]`, without which all cells are one sample.
        genes: names or Ensembl ids of the genes that are read; None = all.

    Raises:
        ConfigurationError: batch labels are missing, not wanted or out of range, samples cannot be told apart, or
            there is no gene of such a name.
        CorpusError: the source is damaged, or a cell has no value in a column that is needed.
        ExpressionError: there are no cells, values are not what the encoding expects, or a cell has no known gene.
        GeneCoverageError: the model knows too few of the genes.
    """
    processor, config = loaded.processor, loaded.model.config
    if hasattr(cells, "obs"):
        if not cells.n_obs:
            raise ExpressionError("There are no cells: the AnnData has 0 rows.")
        cells = InMemorySource(cells, layer, expects=processor.feature_extractor.expects)
    if genes is not None:
        cells = GeneSubset(cells, genes, setting=GENES)
    samples = find_samples(cells, batch_key, setting=_BATCH_KEY) if processor.context == "sample" else None
    batch_labels = _batch_labels(cells, batch_key, config) if samples is None else None
    surveyed = survey_cells(cells, processor, species)
    return PreparedCells(
        cells, surveyed.gene_ids, cells.cell_ids(), surveyed.lengths, batch_labels, surveyed.coverage, samples
    )


def _batch_labels(source: CellSource, batch_key: str | None, config: Any) -> np.ndarray | None:
    """(n_cells,) int64 batch labels for a model that needs them, None for one that does not."""
    needed = getattr(config, "needs_batch_labels", False)
    if not needed and batch_key is None:
        return None
    if not needed:
        raise ConfigurationError(f"The model was trained without batch labels: leave out {_BATCH_KEY}.")
    names = getattr(config, "batch_names", None)
    columns = source.column_names()
    if batch_key not in columns:
        raise ConfigurationError(
            f"The model was trained with {config.num_batch_labels} batch labels: name with {_BATCH_KEY} the column of "
            f"`obs` that holds their {'names' if names else 'numbers'}, got {batch_key!r}; there are {columns}."
        )
    column = labelled_column(source, batch_key)
    numbers = _numbers_of_names if names else _whole_numbers
    return numbers_of(column, numbers(sorted(values_of(column)), config, batch_key))


def _numbers_of_names(values: list[str], config: Any, batch_key: str) -> dict[str, int]:
    """Value -> its place among the names of the batches."""
    names = config.batch_names
    numbers = {name: number for number, name in enumerate(names)}
    if unknown := [value for value in values if value not in numbers]:
        raise ConfigurationError(
            f"`obs[{batch_key!r}]` holds {unknown[:5]}: expected names of the {len(names)} batches of the training, "
            f"{names[:5]}{' …' if len(names) > 5 else ''}. Give cells of other batches the name of one of these."
        )
    return numbers


def _whole_numbers(values: list[str], config: Any, batch_key: str) -> dict[str, int]:
    """Value -> the whole number that it is."""
    try:
        numbers = {value: float(value) for value in values}
        sound = all(number in range(config.num_batch_labels) for number in numbers.values())
    except ValueError:
        sound = False
    if not sound:
        raise ConfigurationError(
            f"`obs[{batch_key!r}]` must hold whole numbers from 0 to {config.num_batch_labels - 1}, as in training; "
            f"it holds {values[:5]}."
        )
    return {value: int(number) for value, number in numbers.items()}
