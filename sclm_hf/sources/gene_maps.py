"""The genes of a corpus's sources as ids of the model's vocabulary."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from .cell_source import CellSource
from .soundness import refuse_empty
from .survey import look_at

if TYPE_CHECKING:
    from ..tokenization.genes.gene_vocabulary import GeneCoverage, GeneMapping
    from ..tokenization.processing_cell import CellProcessor

SAMPLE_RUNS, SAMPLE_RUN = 8, 16
"""A source is judged by 8 runs of 16 cells, evenly spread over the cells used of it: the share of counts covered is
estimated from them, and whether its values are counts."""


class GeneMaps:
    """Gene ids of sources, each mapped once; sources whose columns have the same ids share one array.

    Args:
        processor: maps names to ids.
        species: as for `CellProcessor.map_genes`.
    """

    def __init__(self, processor: "CellProcessor", species: str | None) -> None:
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
            # read first: that there are as many names as columns is checked there
            names, ensembl_ids = source.genes()
            sample = sample_rows(source, rows)
            refuse_empty(source, rows)
            expects = self._processor.feature_extractor.expects
            counts, _ = look_at(source, [sample], expects, within=f" (judged by {len(sample)} of its cells)")
            mapping = self._map(names, ensembl_ids, counts)
            coverage = mapping.weighed(counts).coverage
            coverage.check(location=source.location)
            key = blake2b(mapping.gene_ids.tobytes(), digest_size=16).digest()
            self._by_source[source.name] = self._arrays.setdefault(key, mapping.gene_ids), coverage
        return self._by_source[source.name]

    def _map(self, names: Sequence[str], ensembl_ids: Sequence[str] | None, counts: np.ndarray) -> "GeneMapping":
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


def _digest(names: Sequence[str], ensembl_ids: Sequence[str] | None) -> bytes:
    text = "\0".join([*names, "\1", *("" if ensembl_ids is None else map(str, ensembl_ids))])
    return blake2b(text.encode(), digest_size=16).digest()
