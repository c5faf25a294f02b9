"""What becomes of a source in the hands of a model: how sound its cells are, how many of its genes are known."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ExpressionError
from ..tokenization.encodings.cells import Survey
from ..tokenization.expression_matrix import check_kind, refuse_rows, survey_rows
from .cell_source import CellSource
from .soundness import refuse_unsound, source_named

if TYPE_CHECKING:
    from ..tokenization.genes.gene_vocabulary import GeneCoverage
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


def survey_cells(source: CellSource, processor: "CellProcessor", species: str | None = None) -> SurveyedCells:
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
    with source_named(source):
        gene_ids = processor.map_genes(names, ensembl_ids=ensembl_ids, species=species).gene_ids
    blocks, expects = row_blocks(source.n_cells), processor.feature_extractor.expects
    counts, lengths = look_at(source, blocks, expects, lambda matrix: processor.lengths(matrix, gene_ids))
    # once more: the report names the genes with the most counts first
    coverage = processor.map_genes(names, ensembl_ids=ensembl_ids, species=species, counts=counts).coverage
    coverage.check(location=source.location)
    lengths = np.concatenate(lengths)
    with source_named(source):
        no_gene = "no expressed gene that the model knows"
        refuse_rows(lengths == 0, np.arange(source.n_cells), no_gene, "leave them out.")
    return SurveyedCells(gene_ids, coverage, lengths)


def refuse_alike(source: CellSource) -> None:
    """Refuse cells between which there is no difference; those that differ are found among the first.

    Raises:
        ExpressionError: all have the same values of all genes, also where there is only one.
    """
    first = source.read(np.arange(1))
    for rows in row_blocks(source.n_cells):
        if abs(source.read(rows) - first[np.zeros(len(rows), np.int64)]).nnz:
            return
    if source.n_cells == 1:
        raise ExpressionError(
            f"`{source.location}` holds one cell, which is told apart from no other: give more cells."
        )
    raise ExpressionError(
        f"`{source.location}`: all {source.n_cells:,} cells have the same values of all genes, which tell none apart: "
        "give cells that differ, or name the layer that holds their counts (`layer`, `--layer`)."
    )


def look_at(
    source: CellSource,
    blocks: Iterator[np.ndarray],
    expects: str,
    measure: Callable[[Any], Any] = lambda matrix: None,
    within: str = "",
) -> tuple[np.ndarray, list[Any]]:
    """Read cells of a source and refuse those that are not what the encoding takes.

    Args:
        source: the source.
        blocks: rows that are read together, ascending.
        expects: `"counts"`, `"normalized"` or `"any"`.
        measure: called with each block of cells that is sound.
        within: which cells they are, for messages.

    Returns:
        (n_genes,) float64 total of each column, and what `measure` returned.

    Raises:
        CorpusError, ExpressionError: as for `refuse_unsound`, or the values are of another kind.
    """
    surveys, measured, counts = [], [], np.zeros(source.n_genes)
    for rows in blocks:
        matrix = source.read(rows)
        surveys.append(survey_rows(matrix, rows))
        # what is unsound is refused below, where all of it is known
        if not surveys[-1].problems.any():
            measured.append(measure(matrix))
            counts += np.bincount(matrix.indices, weights=matrix.data, minlength=source.n_genes)
    found = Survey(*map(np.concatenate, zip(*surveys, strict=True)))
    refuse_unsound(found, source)
    with source_named(source):
        check_kind(found, expects, source.data_name, within, source.data_places)
    return counts, measured


def row_blocks(n_cells: int) -> Iterator[np.ndarray]:
    """All rows in order, as many at a time as are read at once."""
    for start in range(0, n_cells, CELLS_AT_ONCE):
        yield np.arange(start, min(start + CELLS_AT_ONCE, n_cells))
