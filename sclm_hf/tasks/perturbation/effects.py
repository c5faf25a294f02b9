"""Effects of perturbations as a table to read."""

from typing import TYPE_CHECKING

from ...errors import ConfigurationError, require
from .table import shift_name

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame


def effect_table(result: "AnnData") -> "DataFrame":
    """The perturbations of a result under names that say what is measured.

    Args:
        result: what `perturb` returned.

    Returns:
        A data frame in the order of [`sorted_effects`]. Shifts and similarities are cosines; the effect size is the
        rank-biserial correlation, from -1 to 1, of the shifts with those of all other perturbations; p values are of
        Wilcoxon's rank sum, and the false discovery rates those of Benjamini and Hochberg.

    Raises:
        ConfigurationError: it is no result of `perturb`.
    """
    goal, mean = _goal_and_mean(result)
    told = "similarity to itself before (cosine)" if goal is None else f"shift to {goal} (cosine)"
    names = {
        "genes": "genes",
        "n_cells": "cells run in",
        "n_expressing": "cells expressing",
        mean: told,
        f"{mean}_low": "95 % interval, low",
        f"{mean}_high": "95 % interval, high",
        "effect": "effect size (rank-biserial)",
        "n_units": "units tested",
        "p_value": "p value (rank sum)",
        "fdr": "false discovery rate (Benjamini-Hochberg)",
    }
    table = sorted_effects(result)
    return table[["perturbation", *(name for name in names if name in table)]].rename(columns=names)


def sorted_effects(result: "AnnData") -> "DataFrame":
    """The perturbations of a result, those that were tested first, and of these the strongest.

    Args:
        result: what `perturb` returned.

    Returns:
        Its `var`, with the names as the column `perturbation`. Sorted by the shift towards the goal, highest first, or
        without states by the similarity of cells to themselves before, lowest first. Perturbations without a p value
        or an interval, which were run in too few cells, come after all others, in the same order.

    Raises:
        ConfigurationError: it is no result of `perturb`.
    """
    pandas = require("pandas", extra="anndata")
    goal, mean = _goal_and_mean(result)
    table = result.var.rename_axis("perturbation").reset_index()
    lacking = [table[name].isna().rename(name) for name in ("p_value", f"{mean}_low") if name in table]
    by = pandas.concat([*lacking, table[mean] if goal is None else -table[mean]], axis=1)
    return table.loc[by.sort_values(list(by.columns), kind="stable").index].reset_index(drop=True)


def _goal_and_mean(result: "AnnData") -> tuple[str | None, str]:
    """The state that shifts are tested towards, and the column that perturbations are sorted by."""
    record = result.uns.get("sclm_hf", {}).get("perturb")
    if record is None or "similarity" not in result.var:
        raise ConfigurationError('These are no effects of perturbations: `uns["sclm_hf"]` has no record of `perturb`.')
    goal = record.get("test", {}).get("goal")
    return goal, "similarity" if goal is None else shift_name(goal)
