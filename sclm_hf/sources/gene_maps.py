"""The genes of a corpus's sources as ids of the model's vocabulary."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from scipy.sparse import csr_matrix

from ..errors import GeneCoverageError
from ..logging import warn
from .cell_source import CellSource
from .soundness import check_indices, check_kind, refuse_empty

if TYPE_CHECKING:
    from ..tokenization.gene_vocabulary import GeneCoverage, GeneMapping
    from ..tokenization.processing_cell import CellProcessor

SAMPLE_RUNS, SAMPLE_RUN = 8, 16
"""A source is judged by 8 runs of 16 cells, evenly spread over the cells used of it: the share of counts covered is
estimated from them, and whether its values are counts."""

_MINIMUM, _WARN_BELOW = 0.30, 0.60


class GeneMaps:
    """Gene ids of sources, each mapped once; sources whose columns have the same ids share one array.

    Args:
        processor: maps names to ids.
        species: as for `CellProcessor.map_genes`.
    """

    def __init__(self, processor: "CellProcessor", species: str) -> None:
        self._processor, self._species = processor, species
        self._by_source: dict[str, tuple[np.ndarray, GeneCoverage]] = {}
        self._by_genes: dict[bytes, GeneMapping] = {}
        self._arrays: dict[bytes, np.ndarray] = {}

    def of(self, source: CellSource, rows: np.ndarray | None) -> "tuple[np.ndarray, GeneCoverage]":
        """Gene ids (n_genes,) of a source's columns and the coverage report.

        Args:
            source: the source.
            rows: the rows used of it; None = all.

        Raises:
            CorpusError: the source is damaged.
            ExpressionError: its values are not of the kind that the encoding expects, or a cell has none.
            GeneCoverageError: the model knows less than 30 % of the counts of the source; the message names it.
        """
        if source.name not in self._by_source:
            # Read first: that there are as many names as columns is checked there.
            names, ensembl_ids = source.genes()
            sample = sample_rows(source, rows)
            matrix = source.read(sample)
            refuse_empty(source, rows)
            check_indices(matrix, source, sample)
            check_kind(matrix, self._processor.feature_extractor.expects, source)
            counts = _column_sums(matrix)
            mapping = self._map(names, ensembl_ids, counts)
            coverage = mapping.weighed(counts).coverage
            _check(coverage, source)
            key = blake2b(mapping.gene_ids.tobytes(), digest_size=16).digest()
            self._by_source[source.name] = self._arrays.setdefault(key, mapping.gene_ids), coverage
        return self._by_source[source.name]

    def _map(
        self, names: Sequence[str], ensembl_ids: Sequence[str] | None, counts: np.ndarray | None
    ) -> "GeneMapping":
        key = _digest(names, ensembl_ids)
        if key in self._by_genes:
            return self._by_genes[key]
        mapping = self._processor.map_genes(names, ensembl_ids=ensembl_ids, species=self._species, counts=counts)
        return self._by_genes.setdefault(key, mapping)


def sample_rows(source: CellSource, rows: np.ndarray | None) -> np.ndarray:
    """The rows, of those used of a source (None = all), by which it is judged."""
    n_cells = source.n_cells if rows is None else len(rows)
    starts = np.linspace(0, max(0, n_cells - SAMPLE_RUN), SAMPLE_RUNS).astype(np.int64)
    places = np.unique(starts[:, None] + np.arange(SAMPLE_RUN))
    places = places[places < n_cells]
    return places if rows is None else rows[places]


def _column_sums(matrix: csr_matrix) -> np.ndarray | None:
    """Total of each column, or None when there is none to weigh genes by; values that are not finite count as zero."""
    sums = np.zeros(matrix.shape[1])
    _add_up(matrix.indices, matrix.data, sums)
    return sums if sums.sum() > 0 else None


@njit(cache=True, nogil=True)
def _add_up(columns, values, sums):
    for i in range(values.size):
        if np.isfinite(values[i]):
            sums[columns[i]] += values[i]


def _check(coverage: "GeneCoverage", source: CellSource) -> None:
    try:
        coverage.check(_MINIMUM, warn_below=_MINIMUM)
    except GeneCoverageError as error:
        raise GeneCoverageError(f"`{source.location}`: {error}") from error
    if coverage.count_share < _WARN_BELOW:
        warn(f"`{source.location}`: few of its genes are known to the model: {coverage.summary()}.")


def _digest(names: Sequence[str], ensembl_ids: Sequence[str] | None) -> bytes:
    text = "\0".join([*names, "\1", *("" if ensembl_ids is None else map(str, ensembl_ids))])
    return blake2b(text.encode(), digest_size=16).digest()
