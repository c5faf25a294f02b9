"""The augmentation of the cells of a window: fewer counts, then tokens."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from ...sources.cell_source import csr_from_arrays
from ...tokenization.encodings.augmenting import Cuts, augment, leave_out, view_ids
from ...tokenization.encodings.cells import CellTokens, tokens_of_columns
from ...tokenization.encodings.keys import Stream, cell_keys, uniforms_for

if TYPE_CHECKING:
    from ..contents import Contents


class Augmenter:
    """Augments the cells of a corpus in an epoch.

    Args:
        corpus: its `augment` says how.
        epoch: number of the epoch.
    """

    def __init__(self, corpus: "Contents", epoch: int) -> None:
        self._settings, self._processor = corpus.augment, corpus.processor
        self._keys = {"seed": corpus.seed, "epoch": epoch}
        self._shares_genes = corpus.samples is not None
        vocabulary = corpus.processor.tokenizer.gene_vocabulary
        self._special = np.zeros(vocabulary.size, bool)
        self._special[list(vocabulary.special_tokens.values())] = True
        self._panels, self._own = _panels(corpus) if self._settings.panel_share else (self._special[None], {})

    def views(
        self,
        encode: Callable[..., CellTokens],
        matrix: csr_matrix,
        gene_ids: np.ndarray,
        ids: np.ndarray,
        *,
        source: int,
        window: int,
        rows: np.ndarray,
    ) -> Iterator[CellTokens]:
        """Encoded cells, once for each view; each is good until the next is asked for.

        Args:
            encode: `CellProcessor.tokens`, without what is random and is keyed here.
            matrix: (cells, genes) sound counts of a source.
            gene_ids: (genes,) as for `CellProcessor.encode`.
            ids: (cells,) what cells are keyed by.
            source: number of the source.
            window: number of the window that they are in.
            rows: (cells,) rows of the matrix to take.
        """
        tokens = tokens_of_columns(gene_ids, tuple(np.flatnonzero(self._special).tolist()))
        for view in range(self._settings.views):
            keyed = view_ids(ids, view)
            cuts = self._cuts(keyed, source, view_ids(np.full(ids.size, window, np.uint64), view))
            data, is_cut = augment(matrix.indptr, matrix.indices, matrix.data, rows, tokens, cuts)
            cells = encode(_with_data(matrix, rows, data), gene_ids, cell_ids=keyed, **self._keys)
            yield leave_out(cells, self._special, cuts, is_cut) if self._has_zeros else cells

    @property
    def _has_zeros(self) -> bool:
        """Whether genes that were left out have tokens, as genes that are not expressed have."""
        parameters = self._processor.feature_extractor
        encoding = parameters.value_encoding
        return (encoding.has_zeros or parameters.include_zero_genes) and not encoding.has_fixed_genes

    def _cuts(self, ids: np.ndarray, source: int, window_ids: np.ndarray) -> Cuts:
        settings, keys = self._settings, cell_keys(ids, **self._keys)
        gene_keys = cell_keys(window_ids, **self._keys) if self._shares_genes else keys
        is_thinned, rate = uniforms_for(keys, Stream.THINNED, 2).T
        is_on_panel, which, share = uniforms_for(gene_keys, Stream.CUT, 3).T
        low, high = map(math.log, settings.thin)
        others = np.setdiff1d(np.arange(len(self._panels)), self._own.get(source, 0))
        numbers = np.full(ids.size, -1)
        if others.size:
            numbers = np.where(is_on_panel < settings.panel_share, others[(which * others.size).astype(np.int64)], -1)
        least, most = settings.drop_genes
        rates = np.where(is_thinned < settings.thin_share, np.exp(low + rate * (high - low)), 1.0)
        return Cuts(keys, gene_keys, rates, numbers, least + share * (most - least), self._panels)


def _panels(corpus: "Contents") -> tuple[np.ndarray, dict[int, int]]:
    """The different sets of genes that sources measure, (panels, ids) bool; and source -> the number of its own."""
    size = corpus.processor.tokenizer.gene_vocabulary.size
    numbers: dict[bytes, int] = {}
    own, panels = {}, []
    for source in np.flatnonzero(corpus.sizes).tolist():
        gene_ids = corpus.gene_ids(source)
        panel = np.zeros(size, bool)
        panel[gene_ids[gene_ids >= 0]] = True
        own[source] = numbers.setdefault(panel.tobytes(), len(numbers))
        if own[source] == len(panels):
            panels.append(panel)
    return np.stack(panels), own


def _with_data(matrix: csr_matrix, rows: np.ndarray, data: np.ndarray) -> csr_matrix:
    """Rows of a matrix with other data."""
    sizes = np.diff(matrix.indptr)[rows]
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    if len(rows) == matrix.shape[0]:
        indices = matrix.indices[matrix.indptr[0] : matrix.indptr[-1]]
    else:
        indices = np.concatenate([matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]] for row in rows])
    return csr_from_arrays(data, indices, indptr, matrix.shape[1])
