"""What the nearest reference cells say: a label, how many agree, and whether they are near enough."""

from typing import NamedTuple

import numpy as np

from ...cell_index import CellIndex

_MOST_TESTED = 2000


class Votes(NamedTuple):
    """What neighbours say of cells.

    Attributes:
        codes: (cells,) places of the labels among the sorted ones.
        share: (cells,) share of the neighbours with this label.
        distance: (cells,) mean cosine distance of the neighbours.
    """

    codes: np.ndarray
    share: np.ndarray
    distance: np.ndarray


class Voters:
    """The cells of an index, voting on others.

    Args:
        index: labelled cells.
        n_neighbours: how many vote on a cell.
    """

    def __init__(self, index: CellIndex, n_neighbours: int) -> None:
        self._index, self._k = index, n_neighbours
        self.names, self._codes = np.unique(index.labels.astype(str), return_inverse=True)

    def on(self, embeddings: np.ndarray, own: np.ndarray | None = None) -> Votes:
        """The votes on cells.

        Args:
            embeddings: (cells, size).
            own: (cells,) row of the index that has no vote on the cell, -1 = none.
        """
        leave_out = int(own is not None and (own >= 0).any())
        rows, cosines = self._index.nearest(embeddings, self._k + leave_out)
        if leave_out:
            order = np.argsort(rows == own[:, None], axis=1, kind="stable")[:, : self._k]
            rows, cosines = (np.take_along_axis(one, order, axis=1) for one in (rows, cosines))
        return self._counted(rows, cosines)

    def on_themselves(self) -> tuple[Votes, float]:
        """The votes on the cells of the index by the others, those of other groups where there are groups.

        Returns:
            The votes on 2,000 cells at most, evenly spaced, and the share of them that get the label they have.
        """
        index, n_cells = self._index, len(self._index.cells)
        tested = np.unique(np.linspace(0, n_cells - 1, min(n_cells, _MOST_TESTED)).astype(int))
        if index.groups is None:
            votes = self.on(index.embeddings[tested], tested)
        else:
            votes = self._counted(*index.nearest(index.embeddings[tested], self._k, index.groups[tested]))
        return votes, float((votes.codes == self._codes[tested]).mean())

    def _counted(self, rows: np.ndarray, cosines: np.ndarray) -> Votes:
        codes, cells = self._codes[rows], np.arange(len(rows))
        votes, similarity = (np.zeros((len(rows), len(self.names))) for _ in range(2))
        np.add.at(votes, (cells[:, None], codes), 1)
        np.add.at(similarity, (cells[:, None], codes), cosines)
        # of labels with as many votes the one of the nearer neighbours, of these the first
        chosen = (votes + similarity / (4 * self._k)).argmax(axis=1)
        return Votes(chosen, votes[cells, chosen] / self._k, 1 - cosines.mean(axis=1))
