"""Effects of perturbations as a table to read."""

from typing import TYPE_CHECKING

from ...errors import ConfigurationError
from .table import shift_name

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame


def effect_table(result: "AnnData") -> "DataFrame":
    """The perturbations of a result, the strongest first, under names that say what is measured.

    Args:
        result: what `perturb` returned.

    Returns:
        A data frame sorted by the shift towards the goal, highest first, or without states by the similarity of cells
        to themselves before, lowest first. Shifts and similarities are cosines; the effect size is the rank-biserial
        correlation, from -1 to 1, of the shifts with those of all other perturbations; p values are of Wilcoxon's rank
        sum, and the false discovery rates those of Benjamini and Hochberg.

    Raises:
        ConfigurationError: it is no result of `perturb`.
    """
    record = result.uns.get("sclm_hf", {}).get("perturb")
    if record is None or "similarity" not in result.var:
        raise ConfigurationError('These are no effects of perturbations: `uns["sclm_hf"]` has no record of `perturb`.')
    goal = record.get("test", {}).get("goal")
    mean = "similarity" if goal is None else shift_name(goal)
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
    table = result.var[[name for name in names if name in result.var]]
    table = table.sort_values(mean, ascending=goal is None, kind="stable").rename(columns=names)
    return table.rename_axis("perturbation").reset_index()
