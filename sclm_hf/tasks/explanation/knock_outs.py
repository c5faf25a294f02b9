"""How much the log-odds of a class lose when a gene is deleted from a cell."""

from collections.abc import Sequence

import numpy as np

from .reading import ClassCell, ClassReader


def knock_outs(reader: ClassReader, cells: Sequence[ClassCell]) -> list[np.ndarray]:
    """(genes,) float32 log-odds of each cell minus those without the gene.

    Args:
        reader: runs them.
        cells: the cells.
    """
    # cell by cell: a cell of many genes is as many cells
    return [
        before - reader.log_odds([cell.without(place) for place in cell.genes[:, None]])
        for cell, before in zip(cells, reader.log_odds(cells), strict=True)
    ]
