"""What a corpus holds, told before anything is trained: what `sclm-hf corpus info` runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...sources.cell_source import CellSource
from ...sources.gene_maps import GeneMaps
from ...sources.opening import name_paths, open_source

if TYPE_CHECKING:
    from ...tokenization.genes.gene_vocabulary import GeneCoverage
    from ...tokenization.processing_cell import CellProcessor


@dataclass(frozen=True)
class SourceInfo:
    """What one source holds.

    Attributes:
        name: name of the source.
        location: where it is.
        n_cells, n_genes: its size.
        columns: names of the columns of `obs`.
        labels: column -> value -> number of cells, for the columns asked for; "" stands for cells without value.
        coverage: what became of its genes, with a processor.
    """

    name: str
    location: str
    n_cells: int
    n_genes: int
    columns: list[str]
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    coverage: "GeneCoverage | None" = None


def describe_corpus(
    paths: str | Path | Sequence[str | Path],
    *,
    columns: Sequence[str] = (),
    processor: "CellProcessor | None" = None,
    layer: str | None = None,
    species: str | None = None,
) -> list[SourceInfo]:
    """Look at every source of a corpus.

    Args:
        paths: as for `CellCorpus`.
        columns: columns of `obs` whose values are counted.
        processor: to see how many of the genes its vocabulary knows.
        layer, species: as for `CellCorpus`.

    Raises:
        CorpusError: a source cannot be read or lacks a column.
        GeneCoverageError: the processor knows less than 30 % of the counts of a source.
    """
    expects = "counts" if processor is None else processor.feature_extractor.expects
    genes = None if processor is None else GeneMaps(processor, species)
    found = []
    for name, path in sorted(name_paths(paths).items()):
        source = open_source(name, path, layer=layer, expects=expects)
        found.append(
            SourceInfo(
                name=name,
                location=source.location,
                n_cells=source.n_cells,
                n_genes=source.n_genes,
                columns=source.column_names(),
                labels={column: _values(source, column) for column in columns},
                coverage=None if genes is None else genes.of(source, None)[1],
            )
        )
        source.close()
    return found


def _values(source: CellSource, name: str) -> dict[str, int]:
    """Value -> number of cells, the most frequent first."""
    column = source.column(name)
    numbers = np.bincount(column.codes.astype(np.int64) + 1, minlength=len(column.categories) + 1)
    pairs = zip(("", *column.categories), numbers.tolist(), strict=True)
    return dict(sorted(((value, number) for value, number in pairs if number), key=lambda pair: (-pair[1], pair[0])))
