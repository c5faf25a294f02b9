"""Results of perturbations as an AnnData: cells × perturbations, with means and tests."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import require
from .blocks import BlockResults, GeneEffects
from .intervals import describe_intervals, mean_intervals
from .runs import Run
from .shift_tests import compare_shifts, describe_tests

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

    from ...tokenization.processing_cell import CellProcessor


class PerturbationTable:
    """Collects results, and makes the AnnData of them.

    Args:
        obs: the cells that are perturbed.
        perturbations: name and tokens of each.
        chosen: numbers of the cells that are perturbed.
        states: those that shifts are measured towards.
        processor: its vocabulary names the genes.
    """

    def __init__(
        self,
        obs: "DataFrame",
        perturbations: list[tuple[str, tuple[int, ...]]],
        chosen: list[int],
        states: Mapping[str, np.ndarray],
        processor: "CellProcessor",
    ) -> None:
        self._obs = obs
        self._perturbations = perturbations
        self._row_of = {cell: row for row, cell in enumerate(chosen)}
        names = ("X", *states)
        self._values = {name: np.full((len(chosen), len(perturbations)), np.nan, np.float32) for name in names}
        self._states, self._effects = tuple(states), GeneEffects(processor)
        self._gene_of = {token: gene for gene, token in processor.tokenizer.gene_vocabulary.items()}

    def add(self, runs: Sequence[Run], found: BlockResults) -> None:
        """Take in what runs gave."""
        rows, numbers = [self._row_of[run.cell] for run in runs], [run.perturbation for run in runs]
        for name, values in zip(("X", *self._states), found.values.T, strict=True):
            self._values[name][rows, numbers] = values
        if found.effects is not None:
            self._effects.add_sums(*found.effects)

    def finish(
        self,
        entry: dict[str, Any],
        n_expressing: np.ndarray,
        goal: str | None = None,
        donor_key: str | None = None,
        seed: int = 0,
    ) -> "AnnData":
        """The AnnData that `perturb` returns.

        Args:
            entry: how it was made.
            n_expressing: (perturbations,) cells that express the genes of each.
            goal: the state to which shifts are tested.
            donor_key: column of `obs` with what counts once in the tests, and is drawn for intervals; None = cells.
            seed: seed of the intervals.
        """
        anndata = require("anndata", extra="anndata")
        ran = ~np.isnan(self._values["X"]).all(axis=0)
        values = {name: matrix[:, ran] for name, matrix in self._values.items()}
        shifts = {shift_name(name): matrix for name, matrix in values.items() if name != "X"}
        var = self._summary(np.flatnonzero(ran), values["X"], shifts)
        var.insert(2, "n_expressing", n_expressing[ran])
        units = None if donor_key is None else self._obs[donor_key].astype("category").cat.codes.to_numpy()
        mean = "similarity" if goal is None else shift_name(goal)
        var[f"{mean}_low"], var[f"{mean}_high"] = mean_intervals(values[goal or "X"], units, seed=seed)
        entry = {**entry, "interval": {"of": mean, **describe_intervals(donor_key)}}
        if goal is not None:
            tests = compare_shifts(values[goal], units)
            var["n_units"], var["p_value"], var["fdr"], var["effect"] = tests
            entry = {**entry, "test": {"goal": goal, **describe_tests(tests, donor_key)}}
        result = anndata.AnnData(values["X"], obs=self._obs.copy(), var=var, layers=shifts)
        result.uns["sclm_hf"] = {"perturb": entry}
        if len(self._effects):
            result.uns["gene_effects"] = self._gene_effects()
        return result

    def _summary(self, numbers: np.ndarray, similarities: np.ndarray, shifts: dict[str, np.ndarray]) -> "DataFrame":
        pandas = require("pandas", extra="anndata")
        chosen = [self._perturbations[number] for number in numbers]
        columns = {
            "genes": ["; ".join(self._gene_of[token] for token in tokens) for _, tokens in chosen],
            "n_cells": (~np.isnan(similarities)).sum(axis=0),
            "similarity": np.nanmean(similarities, axis=0),
        }
        columns |= {name: np.nanmean(matrix, axis=0) for name, matrix in shifts.items()}
        return pandas.DataFrame(columns, index=[name for name, _ in chosen])

    def _gene_effects(self) -> "DataFrame":
        pandas = require("pandas", extra="anndata")
        numbers, genes, n_cells, (similarities, *changes) = self._effects.means()
        table = {
            "perturbation": [self._perturbations[number][0] for number in numbers.tolist()],
            "gene": [self._gene_of[gene] for gene in genes.tolist()],
            "n_cells": n_cells,
            "similarity": similarities,
        }
        if changes:
            mean, mean_of_squares = changes
            table["change"] = mean
            # of one cell there is none
            variance = np.maximum(mean_of_squares - mean**2, 0) / np.where(n_cells > 1, n_cells - 1, np.nan)
            table["change_error"] = np.sqrt(variance)
        return pandas.DataFrame(table)


def shift_name(state: str) -> str:
    """Name of the shifts towards a state in `layers` and `var`; `|` for `/`, which no `.h5ad` file can hold."""
    return f"shift_{state}".replace("/", "|")
