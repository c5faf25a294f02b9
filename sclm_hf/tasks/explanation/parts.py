"""Some cells that are explained together: scores of their genes and the curves that test them, as they are kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .curves import FRACTIONS, RANDOM, Curves, curves
from .gradients import integrated_gradients
from .knock_outs import knock_outs
from .reading import ClassCell, ClassReader
from .rollout import attention_rollout

if TYPE_CHECKING:
    from ..explain import ExplainSettings
    from ..files.pieces import Pieces

PASSES_AT_A_TIME = 2048
"""Cells run through the model for what is kept as one piece, unless those for a single cell are more."""

EXPRESSION = "expression"


class ExplainedPart(NamedTuple):
    """What was found of some cells.

    Attributes:
        scores: method -> (genes,) float32 of each cell.
        curves: order of the genes -> curves of the cells.
        sums: (cells, 2) sums of the integrated gradients of all genes, and the changes of the log-odds; or None.
    """

    scores: dict[str, list[np.ndarray]]
    curves: dict[str, Curves]
    sums: np.ndarray | None

    @classmethod
    def kept(
        cls, pieces: "Pieces | None", number: int, cells: Sequence[ClassCell], methods: Sequence[str]
    ) -> "ExplainedPart | None":
        """The one that is kept as piece `number`; None where there is none, or not all of it."""
        found = None if pieces is None else pieces.load(number, len(cells))
        if found is None:
            return None
        arrays, ends = pieces.load_arrays(number), np.cumsum([cell.genes.size for cell in cells])
        if not set(methods) <= arrays.keys():
            return None
        scores = {name: np.split(arrays[name], ends[:-1]) for name in methods}
        orders = enumerate((RANDOM, EXPRESSION, *methods))
        tested = {name: Curves(*found[:, place].swapaxes(0, 1)) for place, name in orders}
        return cls(scores, tested, arrays.get("sums"))

    def keep(self, pieces: "Pieces", number: int) -> None:
        """Keep it as piece `number`: (cells, orders, 2, fractions) curves, and scores one after the other."""
        arrays = {name: np.concatenate(found) for name, found in self.scores.items()}
        if self.sums is not None:
            arrays["sums"] = self.sums
        pieces.save(number, np.stack([np.stack(one, axis=1) for one in self.curves.values()], axis=1), **arrays)


def explain_part(
    reader: ClassReader,
    cells: Sequence[ClassCell],
    settings: "ExplainSettings",
    orders: Mapping[str, Callable[[ClassCell], np.ndarray]],
) -> ExplainedPart:
    """Score the genes of some cells, and test the scores.

    Args:
        reader: runs the cells.
        cells: the cells.
        settings: methods and their steps.
        orders: other orders of genes that are tested too: name -> scores of the genes of a cell.
    """
    scores, sums = {}, None
    for method in settings.method_names:
        if method == "knock_out":
            scores[method] = knock_outs(reader, cells)
        elif method == "attention":
            scores[method] = attention_rollout(reader, cells)
        else:
            scores[method], *found = integrated_gradients(reader, cells, settings.n_steps)
            sums = np.column_stack(found)
    tested = {**{name: list(map(order, cells)) for name, order in orders.items()}, **scores}
    return ExplainedPart(scores, {name: curves(reader, cells, found) for name, found in tested.items()}, sums)


def parts_of(cells: Sequence[ClassCell], settings: "ExplainSettings") -> Iterator[Sequence[ClassCell]]:
    """The cells that are explained and kept together, in their order."""
    methods = settings.method_names
    fixed = 2 * len(FRACTIONS) * (2 + len(methods)) + settings.n_steps * ("integrated_gradients" in methods)
    passes = np.array([fixed + cell.genes.size * ("knock_out" in methods) for cell in cells])
    part_of = (np.cumsum(passes) - passes) // PASSES_AT_A_TIME
    bounds = [0, *(np.flatnonzero(np.diff(part_of)) + 1).tolist(), len(cells)]
    for first, last in pairwise(bounds):
        yield cells[first:last]
