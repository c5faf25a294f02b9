"""The cells of a corpus by what they have in common, to be drawn by key and read wherever they lie."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..sources.soundness import cells_named
from .cell_words import CellWriter

if TYPE_CHECKING:
    from ..corpora.contents import Contents


_MOST_OPEN = 64
"""Of more sources than this none is kept open, as a process may have so many files open and no more."""


class Pools:
    """The places of cells, by group and label; a place counts through the cells of all sources in their order.

    Args:
        corpus: the cells.
        label: field of the corpus with the labels.
        match: fields whose values the cells of a group share; without any, all cells are one group.

    Attributes:
        counts: (groups, labels) int64, how many cells there are.
    """

    def __init__(self, corpus: "Contents", label: str, match: Sequence[str]) -> None:
        columns = {field: np.concatenate(corpus.numbered[field]) for field in (label, *match)}
        self._radix = [(field, int(columns[field].max()) + 1) for field in match]
        self._combinations, groups = np.unique(self._combined(columns), return_inverse=True)
        n_labels = int(columns[label].max()) + 1
        pools = groups * n_labels + columns[label]
        counts = np.bincount(pools, minlength=len(self._combinations) * n_labels)
        self.counts = counts.reshape(-1, n_labels)
        self._places, self._starts = np.argsort(pools, kind="stable"), np.cumsum(counts) - counts

    def groups(self, batch: Mapping[str, Any]) -> np.ndarray:
        """(cells,) the groups of the cells of a batch."""
        return np.searchsorted(self._combinations, self._combined(batch))

    def drawn(self, group: int, label: int, draw: float, *, after: int = 0) -> int:
        """The place of one of the cells of a group and label.

        Args:
            group, label: whose cells.
            draw: in [0, 1), decides which.
            after: take the one that comes so many later; after the last comes the first.
        """
        count = self.counts[group, label]
        start = self._starts[group * self.counts.shape[1] + label]
        return int(self._places[start + (int(draw * count) + after) % count])

    def _combined(self, columns: Mapping[str, Any]) -> np.ndarray:
        """(cells,) a number for the values of all fields that are shared."""
        combined = np.zeros(len(next(iter(columns.values()))), np.int64)
        for field, size in self._radix:
            combined = combined * size + np.asarray(columns[field], np.int64)
        return combined


class OtherCells:
    """Reads any cells of a corpus as sentences.

    Args:
        corpus: the corpus; sources that it opens lazily are opened now.
        words: writes the sentences.
    """

    def __init__(self, corpus: "Contents", words: CellWriter) -> None:
        self._corpus, self._words = corpus, words
        self._ends = np.cumsum(corpus.sizes)
        self._gene_ids = [corpus.gene_ids(index) if size else None for index, size in enumerate(corpus.sizes)]
        # of their own, as threads read those of the corpus at the same time
        self._sources = copy.deepcopy(corpus.sources)

    def ids(self, places: np.ndarray) -> np.ndarray:
        """(cells,) uint64 ids of cells."""
        once, back = np.unique(places, return_inverse=True)
        ids = [self._sources[index].cell_ids(rows) for index, rows in self._by_source(once)]
        return np.concatenate([np.empty(0, np.uint64), *ids])[back]

    def sentences(self, places: np.ndarray, epoch: int) -> list[str]:
        """(cells,) sentences of cells.

        Args:
            places: (cells,) their places, in any order.
            epoch: varies what is drawn about them.

        Raises:
            SclmError: a cell cannot be read or encoded; the message names file and row.
        """
        once, back = np.unique(places, return_inverse=True)
        written: list[str] = []
        for index, rows in self._by_source(once):
            written += self._read(index, rows, epoch)
        return [written[number] for number in back]

    def _by_source(self, places: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The number of each source with cells among ascending `places`, and their rows."""
        owners = np.searchsorted(self._ends, places, "right")
        for index in np.unique(owners).tolist():
            begin = self._ends[index] - self._corpus.sizes[index]
            yield index, self._corpus.rows_at(index, places[owners == index] - begin)

    def _read(self, index: int, rows: np.ndarray, epoch: int) -> list[str]:
        source, processor = self._sources[index], self._corpus.processor
        matrix, ids = source.read(rows), source.cell_ids(rows)
        if len(self._sources) > _MOST_OPEN:
            source.close()

        def encode(at: np.ndarray) -> list[str]:
            tokens = processor.tokens(
                matrix, self._gene_ids[index], cell_ids=ids[at], rows=at, seed=self._corpus.seed, epoch=epoch
            )
            return self._words.sentences(processor.padded(tokens))

        with cells_named(source, matrix, rows, processor.feature_extractor.expects, encode):
            return encode(np.arange(len(rows)))
