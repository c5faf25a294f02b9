"""Encoded cells of a sample as one matrix of cells and genes."""

import numpy as np

from .cells import CellTokens
from .kernels import kernel


@kernel
def _present(ids, starts, lengths, cells, present):
    for cell in cells:
        for token in ids[starts[cell] : starts[cell] + lengths[cell]]:
            present[token] = True


@kernel
def _spread(tokens, cells, places, out):
    for i in range(cells.size):
        start = tokens.starts[cells[i]]
        for j in range(start, start + tokens.lengths[cells[i]]):
            out[i, places[tokens.ids[j]]] = tokens.values[j]


def sample_genes(tokens: CellTokens, cells: np.ndarray, vocab_size: int) -> np.ndarray:
    """(genes,) int64, the ids that some of the cells have, ascending."""
    present = np.zeros(vocab_size, np.bool_)
    _present(tokens.ids, tokens.starts, tokens.lengths, cells, present)
    return np.flatnonzero(present)


def sample_matrix(tokens: CellTokens, cells: np.ndarray, genes: np.ndarray, vocab_size: int) -> np.ndarray:
    """(cells, genes) float32 values, 0 where a cell lacks a gene.

    Args:
        tokens: encoded cells.
        cells: (cells,) which of them.
        genes: (genes,) ids, all that these cells have among them.
        vocab_size: largest id + 1.
    """
    places = np.zeros(vocab_size, np.int64)
    places[genes] = np.arange(genes.size)
    out = np.zeros((cells.size, genes.size), np.float32)
    _spread(tokens, cells, places, out)
    return out
