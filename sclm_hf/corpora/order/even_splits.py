"""Cells held out for evaluation so that every label is trained on: whole donors or batches, or some of each label."""

from collections.abc import Sequence

import numpy as np

from ...sources.cell_source import CellSource
from ...tokenization.encodings.keys import Stream, cell_keys, uniforms_for
from .splits import group_columns, places


def hold_out_evenly(
    sources: Sequence[CellSource],
    rows: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    share: float,
    seed: int = 0,
    *,
    leave_out: Sequence[str | None] = (),
) -> tuple[dict[str, np.ndarray], str | None]:
    """Which cells are held out so that every label is trained on: whole donors or batches where there are some.

    The first column that usually tells donors, samples or batches apart is taken in which some values, together
    about `share` of the cells and at most twice as many, can be held out and leave cells of every label. Otherwise
    that share of each label's cells is held out, one at least of every label that has two.

    Args:
        sources: the sources.
        rows: the rows used of each.
        labels: the numbers of the labels of these rows.
        share: share of the cells.
        seed: seed of the choice.
        leave_out: columns that are not looked at.

    Returns:
        Source name -> (cells,) bool, and the column whose values are held out whole, or None.
    """
    everything = np.concatenate(labels)
    ends = np.cumsum([len(used) for used in rows])[:-1]
    chosen, found = None, None
    for column in group_columns(sources, leave_out):
        groups = np.concatenate([_names_of(source, column, used) for source, used in zip(sources, rows, strict=True)])
        chosen = _whole_groups(groups, everything, share)
        if chosen is not None:
            found = column
            break
    if chosen is None:
        chosen = _share_of_each(everything, share, seed)
    masks = {}
    for source, used, part in zip(sources, rows, np.split(chosen, ends), strict=True):
        masks[source.name] = np.zeros(source.n_cells, bool)
        masks[source.name][used] = part
    return masks, found


def _names_of(source: CellSource, column: str, rows: np.ndarray) -> np.ndarray:
    """The value of each cell; cells without one belong together."""
    found = source.column(column)
    return np.array([*found.categories, ""], dtype=str)[found.codes[rows]]


def _whole_groups(groups: np.ndarray, labels: np.ndarray, share: float) -> np.ndarray | None:
    """(cells,) bool: groups in the order of their places, until they have `share` of the cells; None if that fails."""
    names, numbers = np.unique(groups, return_inverse=True)
    held_out = np.zeros(len(groups), bool)
    for number in np.argsort(places(names.tolist()), kind="stable"):
        more = held_out | (numbers == number)
        if more.mean() <= 2 * share and len(np.unique(labels[~more])) == len(np.unique(labels)):
            held_out = more
        if held_out.mean() >= share:
            break
    return held_out if held_out.mean() >= share / 2 else None


def _share_of_each(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """(cells,) bool: `share` of the cells of each label, rounded, one at least of every label that has two."""
    draws = uniforms_for(cell_keys(np.arange(len(labels)), seed, 0), Stream.HELD_OUT, 1)[:, 0]
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        cells = np.flatnonzero(labels == label)
        number = min(max(round(share * len(cells)), 1), len(cells) - 1)
        held_out[cells[np.argsort(draws[cells], kind="stable")[:number]]] = True
    return held_out
