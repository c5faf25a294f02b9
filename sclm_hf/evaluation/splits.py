"""Train and test cells: pure functions of the labels, the groups and a seed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigurationError, require


@dataclass(frozen=True)
class Split:
    """One division of a data set.

    Attributes:
        name: what the split is called in reports, for example `"seed 0"` or `"donor C144"`.
        train: (n_train,) positions of the training cells, ascending.
        test: (n_test,) positions of the test cells, ascending; none of them is a training cell.
    """

    name: str
    train: np.ndarray
    test: np.ndarray


def stratified_splits(
    labels: Sequence[str], *, seeds: Iterable[int] = range(5), test_share: float = 0.2
) -> list[Split]:
    """One random split a seed, every label divided in the same proportion.

    Args:
        labels: (n_cells,) label of every cell; none may be missing.
        seeds: one split is made for each.
        test_share: share of the cells that is tested, between 0 and 1.

    Raises:
        ConfigurationError: a label is missing, or a label has fewer than two cells.
    """
    labels = _complete(labels, "label")
    names, counts = np.unique(labels, return_counts=True)
    if rare := names[counts < 2].tolist():
        raise ConfigurationError(
            f"A stratified split needs two cells of every label, and {rare} have one: drop or merge these labels."
        )
    model_selection = require("sklearn.model_selection", extra="evaluation")
    splits = []
    for seed in seeds:
        splitter = model_selection.StratifiedShuffleSplit(n_splits=1, test_size=test_share, random_state=seed)
        train, test = next(splitter.split(labels, labels))
        splits.append(Split(f"seed {seed}", np.sort(train), np.sort(test)))
    return splits


def group_splits(groups: Sequence[str], *, name: str = "group") -> list[Split]:
    """Leave one group (donor, batch, platform) out at a time, in alphabetical order.

    Args:
        groups: (n_cells,) group of every cell; none may be missing.
        name: what a group is, for the names of the splits.

    Raises:
        ConfigurationError: a group is missing, or there is only one.
    """
    groups = _complete(groups, name)
    names = np.unique(groups)
    if len(names) < 2:
        raise ConfigurationError(f"Leaving one {name} out needs at least two, got {names.tolist()}.")
    return [Split(f"{name} {one}", np.flatnonzero(groups != one), np.flatnonzero(groups == one)) for one in names]


def _complete(values: Sequence[str], what: str) -> np.ndarray:
    pandas = require("pandas", extra="evaluation")
    values = pandas.Series(np.asarray(values, dtype=object))
    if values.isna().any():
        raise ConfigurationError(
            f"{int(values.isna().sum())} of {len(values)} cells have no {what}: leave them out before splitting."
        )
    return values.astype(str).to_numpy(dtype=str)
