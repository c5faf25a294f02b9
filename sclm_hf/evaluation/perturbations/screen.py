"""A perturbation screen: cells with the name of what was done to each, controls among them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse

from ...errors import ConfigurationError
from ...logging import counted

SEPARATORS = ("+", "_", ";", "|", ",", "&", "/")
"""What names of genes that were perturbed together are joined by in public data."""

ONE_CONTEXT = "all"
"""The context of cells whose types are not told apart."""


class Condition(NamedTuple):
    """What was done to which kind of cells."""

    context: str
    perturbation: str


@dataclass(frozen=True)
class Screen:
    """Cells of a perturbation screen.

    Attributes:
        values: (n_cells, n_genes) CSR of log-normalised expression.
        genes: (n_genes,) names.
        perturbations: (n_cells,) what was done to each cell.
        contexts: (n_cells,) its cell type, or `ONE_CONTEXT`.
        control: the name of the perturbation that means none.
        separator: what joins the genes of a combination.
    """

    values: scipy.sparse.csr_matrix
    genes: tuple[str, ...]
    perturbations: np.ndarray
    contexts: np.ndarray
    control: str
    separator: str = "+"

    def __post_init__(self) -> None:
        order = np.lexsort((self.perturbations, self.contexts))
        if not order.size:
            raise ConfigurationError("There are no cells.")
        keys = [Condition(str(self.contexts[row]), str(self.perturbations[row])) for row in order]
        starts = [0, *(row for row in range(1, len(keys)) if keys[row] != keys[row - 1])]
        ends = [*starts[1:], len(keys)]
        rows = {keys[start]: np.sort(order[start:end]) for start, end in zip(starts, ends, strict=True)}
        object.__setattr__(self, "_rows", rows)

    @property
    def conditions(self) -> list[Condition]:
        """Every context with every perturbation that its cells had, sorted; controls left out."""
        return [condition for condition in self._rows if condition.perturbation != self.control]

    def rows(self, condition: Condition) -> np.ndarray:
        """(cells,) ascending numbers of the cells of a condition; none where there are none."""
        return self._rows.get(condition, np.empty(0, np.int64))

    def controls(self, context: str) -> np.ndarray:
        """(cells,) ascending numbers of the control cells of a context."""
        return self.rows(Condition(context, self.control))

    def parts(self, perturbation: str) -> tuple[str, ...]:
        """Names of the genes that a perturbation is made of, sorted; parts named like the control are left out."""
        names = [part.strip() for part in perturbation.split(self.separator)]
        return tuple(sorted(name for name in names if name != self.control))

    def mean(self, rows: np.ndarray) -> np.ndarray:
        """(n_genes,) mean expression over some cells."""
        return np.asarray(self.values[rows].mean(axis=0), dtype=np.float64).ravel()

    def shift(self, condition: Condition) -> np.ndarray:
        """(n_genes,) mean expression of a condition, minus that of the controls of its context."""
        return self.mean(self.rows(condition)) - self.mean(self.controls(condition.context))

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """(cells, n_genes) float32 expression of some cells."""
        return self.values[rows].toarray().astype(np.float32, copy=False)


def check_screen(screen: Screen) -> None:
    """Refuse cells that nothing can be learnt from.

    Raises:
        ConfigurationError: there are no control cells, none of a context, or nothing else.
    """
    present = sorted(set(screen.perturbations.tolist()))
    if screen.control not in present:
        raise ConfigurationError(
            f"No cell is a control: `control` (`--control`) is {screen.control!r}, and the perturbations are "
            f"{', '.join(present[:10])}{' …' if len(present) > 10 else ''}."
        )
    if len(present) == 1:
        raise ConfigurationError(
            f"All {counted(len(screen.perturbations), 'cell')} are controls ({screen.control!r}): give perturbed "
            "cells as well, from which the effects of others are predicted."
        )
    contexts = sorted(set(screen.contexts.tolist()))
    if lacking := [context for context in contexts if not screen.controls(context).size]:
        raise ConfigurationError(
            f"There are no control cells of {', '.join(map(repr, lacking[:5]))}: a perturbation is predicted from the "
            "controls of the same cell type. Leave these cells out, or leave out `cell_type_key` (`--cell-type-key`)."
        )


def check_separator(screen: Screen, names: Sequence[str], known: Collection[str]) -> None:
    """Refuse names that are combinations joined by something else.

    Args:
        screen: its separator.
        names: names of perturbations.
        known: names of genes.

    Raises:
        ConfigurationError: a name is no gene, and its parts are when it is split at another character.
    """
    for name in names:
        if name == screen.control or set(screen.parts(name)) <= set(known):
            continue
        for other in SEPARATORS:
            parts = [part for part in name.split(other) if part != screen.control]
            if other != screen.separator and len(parts) > 1 and set(parts) <= set(known):
                raise ConfigurationError(
                    f"{name!r} seems to be {' and '.join(parts)} together, joined by {other!r}: say so with "
                    f"`separator` (`--separator`), which is {screen.separator!r}."
                )
