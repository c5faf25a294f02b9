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


def stratified_folds(labels: Sequence[str], n_folds: int = 5, *, seed: int = 0) -> list[Split]:
    """As many splits as folds, each cell tested once, every label divided as evenly as it can be.

    Args:
        labels: (n_cells,) label of every cell; none may be missing.
        n_folds: how many.
        seed: seed of the shuffling.

    Raises:
        ConfigurationError: a label is missing, or has fewer cells than there are folds.
    """
    labels = _complete(labels, "label")
    names, counts = np.unique(labels, return_counts=True)
    if rare := names[counts < n_folds].tolist():
        raise ConfigurationError(
            f"{n_folds} folds need {n_folds} cells of every label, and {rare} have fewer: drop or merge these labels."
        )
    model_selection = require("sklearn.model_selection", extra="evaluation")
    folds = model_selection.StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(labels, labels)
    return [Split(f"fold {number}", train, test) for number, (train, test) in enumerate(folds)]


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


def few_shot_splits(
    labels: Sequence[str], *, per_label: int = 5, seeds: Iterable[int] = range(3), within: Split | None = None
) -> list[Split]:
    """Train on a few random cells of every label, one draw for each seed; all others are tested.

    Args:
        labels: (n_cells,) label of every cell; none may be missing.
        per_label: training cells per label.
        seeds: one draw is made for each.
        within: draw from the training cells of this split alone, and test its test cells: with a split of
            [`group_splits`], few labels of some platforms against all cells of another.

    Raises:
        ConfigurationError: a label is missing, or a label has fewer than `per_label` cells to draw from.
    """
    labels = _complete(labels, "label")
    pool = np.arange(len(labels)) if within is None else within.train
    names, counts = np.unique(labels[pool], return_counts=True)
    if rare := names[counts < per_label].tolist():
        raise ConfigurationError(
            f"{per_label} training cells of every label are drawn, and {rare} have fewer: drop or merge these labels, "
            "or ask for fewer cells with `per_label`."
        )
    prefix = "" if within is None else f"{within.name}, "
    splits = []
    for seed in seeds:
        generator = np.random.default_rng(seed)
        drawn = [generator.permutation(pool[labels[pool] == name])[:per_label] for name in names]
        train = np.sort(np.concatenate(drawn))
        test = np.setdiff1d(pool, train) if within is None else within.test
        splits.append(Split(f"{prefix}{per_label} per label, seed {seed}", train, test))
    return splits


def _complete(values: Sequence[str], what: str) -> np.ndarray:
    pandas = require("pandas", extra="evaluation")
    values = pandas.Series(np.asarray(values, dtype=object))
    if values.isna().any():
        raise ConfigurationError(
            f"{int(values.isna().sum())} of {len(values)} cells have no {what}: leave them out before splitting."
        )
    return values.astype(str).to_numpy(dtype=str)
