"""A perturbation screen: cells with the name of what was done to each, controls among them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import scipy.sparse

from ...errors import ConfigurationError
from ...logging import counted

SEPARATORS = ("+", "_", ";", "|", ",", "&", "/")
"""What names of genes that were perturbed together are joined by in public data."""

ONE_CONTEXT = "all"
"""The context of cells whose types are not told apart."""


_AT_ONCE, _PAIRS = 4096, 2**24
"""Cells that are read at once where means are taken, and those of all groups that one reading serves."""


class Rows(Protocol):
    """Expression that is read row by row, such as a CSR matrix."""

    shape: tuple[int, int]

    def __getitem__(self, rows: np.ndarray) -> scipy.sparse.csr_matrix:
        """(rows, n_genes) of some rows, in any order."""


class Condition(NamedTuple):
    """What was done to which kind of cells."""

    context: str
    perturbation: str


@dataclass(frozen=True)
class Screen:
    """Cells of a perturbation screen.

    Attributes:
        values: (n_cells, n_genes) log-normalised expression, as CSR or where it is read.
        genes: (n_genes,) names.
        perturbations: (n_cells,) what was done to each cell.
        contexts: (n_cells,) its cell type, or `ONE_CONTEXT`.
        control: the name of the perturbation that means none.
        separator: what joins the genes of a combination.
    """

    values: Rows
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
        object.__setattr__(self, "_means", {})

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

    def means(self, groups: Sequence[np.ndarray]) -> np.ndarray:
        """(groups, n_genes) mean expression over the cells of each of several groups, which may overlap.

        The cells are read in their order, once for as many groups as have `_PAIRS` cells together.
        """
        sizes = np.array([len(rows) for rows in groups])
        sums = np.zeros((len(groups), len(self.genes)))
        for part in np.split(np.arange(len(groups)), np.flatnonzero(np.diff(np.cumsum(sizes) // _PAIRS)) + 1):
            rows = np.concatenate([groups[number] for number in part])
            order = np.argsort(rows, kind="stable")
            rows, of = rows[order], np.repeat(part, sizes[part])[order]
            for start in range(0, self.values.shape[0], _AT_ONCE):
                some = slice(*np.searchsorted(rows, (start, start + _AT_ONCE)))
                if some.start < some.stop:
                    # all of a block, as one read takes less time than many
                    block = np.arange(start, min(start + _AT_ONCE, self.values.shape[0]))
                    present, which = np.unique(of[some], return_inverse=True)
                    pairs = np.ones(some.stop - some.start), (which, rows[some] - start)
                    members = scipy.sparse.csr_matrix(pairs, (len(present), len(block)))
                    sums[present] += (members @ self.values[block].astype(np.float64)).toarray()
        return sums / sizes[:, None]

    def mean_of(self, condition: Condition) -> np.ndarray:
        """(n_genes,) mean expression of a condition; those of all are taken at once."""
        if not self._means:
            self._means.update(zip(self._rows, self.means(list(self._rows.values())), strict=True))
        return self._means[condition]

    def control_mean(self, context: str) -> np.ndarray:
        """(n_genes,) mean expression of the control cells of a context."""
        return self.mean_of(Condition(context, self.control))

    def shift(self, condition: Condition) -> np.ndarray:
        """(n_genes,) mean expression of a condition, minus that of the controls of its context."""
        return self.mean_of(condition) - self.control_mean(condition.context)

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
