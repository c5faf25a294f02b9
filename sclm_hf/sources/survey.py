"""One pass over a source: what is wrong with its cells, how much of them a model knows, how long they are."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..tokenization.encodings.cells import Survey
from ..tokenization.expression_matrix import check_kind, refuse_rows, refuse_unsound, survey_rows
from .cell_source import CellSource

if TYPE_CHECKING:
    from ..tokenization.gene_vocabulary import GeneCoverage
    from ..tokenization.processing_cell import CellProcessor

CELLS_AT_ONCE = 1024
"""Cells that are read at once."""


class SurveyedCells(NamedTuple):
    """All cells of a source, sound and mapped to the vocabulary of a model.

    Attributes:
        gene_ids: (n_genes,) int64, as from `CellProcessor.map_genes`.
        coverage: what became of the genes, weighed by the counts of all cells.
        lengths: (n_cells,) int64, tokens of each cell.
    """

    gene_ids: np.ndarray
    coverage: "GeneCoverage"
    lengths: np.ndarray


def survey_cells(source: CellSource, processor: "CellProcessor", species: str = "human") -> SurveyedCells:
    """Read every cell once, and refuse now what would fail later.

    Args:
        source: the cells.
        processor: maps genes and measures cells.
        species: as for `CellProcessor.map_genes`.

    Raises:
        CorpusError: the source is damaged.
        ExpressionError: values are not what the encoding expects, or a cell has no known gene.
        GeneCoverageError: the model knows too few of the genes.
    """
    names, ensembl_ids = source.genes()
    gene_ids = processor.map_genes(names, ensembl_ids=ensembl_ids, species=species).gene_ids
    surveys, lengths, counts = [], [], np.zeros(source.n_genes)
    for rows in row_blocks(source.n_cells):
        matrix = source.read(rows)
        surveys.append(survey_rows(matrix, rows))
        # what is unsound is refused below, where all of it is known
        if not surveys[-1].problems.any():
            lengths.append(processor.lengths(matrix, gene_ids))
            counts += np.bincount(matrix.indices, weights=matrix.data, minlength=source.n_genes)
    found = Survey(*map(np.concatenate, zip(*surveys, strict=True)))
    refuse_unsound(found)
    check_kind(found, processor.feature_extractor.expects, source.data_name)
    # once more: the report names the genes with the most counts first
    coverage = processor.map_genes(names, ensembl_ids=ensembl_ids, species=species, counts=counts).coverage
    coverage.check()
    lengths = np.concatenate(lengths)
    refuse_rows(lengths == 0, found.rows, "no expressed gene that the model knows", "leave them out.")
    return SurveyedCells(gene_ids, coverage, lengths)


def row_blocks(n_cells: int) -> Iterator[np.ndarray]:
    """All rows in order, as many at a time as are read at once."""
    for start in range(0, n_cells, CELLS_AT_ONCE):
        yield np.arange(start, min(start + CELLS_AT_ONCE, n_cells))
