"""Cells as shallow as those that a model will annotate."""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from ..corpora.cell_corpus import CellCorpus
from ..errors import ExpressionError
from ..evaluation.thinning import thin_counts
from ..sources.cell_source import CellSource


class ThinnedSource:
    """The cells of another source, each read kept by chance; all who read a cell here read the same counts.

    Args:
        source: the cells; what is not about their counts is asked of it.
        depth: reads that a cell is left with on average.
        seed: seed of the draws, which belong to the cell's name and the column.
    """

    def __init__(self, source: CellSource, depth: float, seed: int) -> None:
        self._source, self._depth, self._seed = source, depth, seed

    def __getattr__(self, name: str) -> Any:
        # while it is unpickled it has no source yet
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    def read(self, rows: np.ndarray, scratch: Any = None) -> csr_matrix:
        """The cells `rows`, thinned, as float32.

        Raises:
            ExpressionError: their values are no counts.
        """
        matrix = self._source.read(rows)
        if (matrix.data != np.rint(matrix.data)).any():
            raise ExpressionError(
                f"`{self._source.location}` holds values that are no counts, and only counts can be thinned: leave "
                "`target_depth` (`--target_depth`) out, or name with `layer` (`--layer`) the one with the counts."
            )
        ids = self._source.cell_ids(rows)
        return thin_counts(matrix, depth=self._depth, cell_ids=ids, seed=self._seed).astype(np.float32)

    def stored_rows(self) -> AbstractContextManager[None]:
        """Nowhere do these counts lie in a file."""
        return nullcontext()


def at_depth(corpus: CellCorpus | None, depth: float, seed: int) -> CellCorpus | None:
    """The same cells, thinned; as they are where `depth` is 0.

    Args:
        corpus: the cells, or None.
        depth: reads that a cell is left with on average; cells with fewer stay as they are.
        seed: seed of the draws.
    """
    if corpus is None or not depth:
        return corpus
    corpus = copy.copy(corpus)
    corpus.sources = [ThinnedSource(source, depth, seed) for source in corpus.sources]
    return corpus
