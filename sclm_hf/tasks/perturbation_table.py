"""Results of perturbations as an AnnData: cells × perturbations, with means and tests."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import require
from .perturbation_runs import RunResult

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

    from ..tokenization.processing_cell import CellProcessor

MOST_REFERENCE_VALUES = 100_000
"""As many values of all perturbations each one is tested against, as published."""


class PerturbationTable:
    """Collects results, and makes the AnnData of them.

    Args:
        adata: all cells.
        perturbations: name and tokens of each.
        chosen: numbers of the cells that are perturbed.
        states: those that shifts are measured towards.
        processor: its vocabulary names the genes.
    """

    def __init__(
        self,
        adata: "AnnData",
        perturbations: list[tuple[str, tuple[int, ...]]],
        chosen: list[int],
        states: Mapping[str, np.ndarray],
        processor: "CellProcessor",
    ) -> None:
        self._obs = adata.obs.iloc[chosen]
        self._perturbations = perturbations
        self._row_of = {cell: row for row, cell in enumerate(chosen)}
        names = ("X", *states)
        self._values = {name: np.full((len(chosen), len(perturbations)), np.nan, np.float32) for name in names}
        self._effects: dict[tuple[int, int], list[float]] = {}
        self._gene_of = {token: gene for gene, token in processor.tokenizer.gene_vocabulary.items()}

    def add(self, result: RunResult) -> None:
        """Take in what a run gave."""
        place = self._row_of[result.run.cell], result.run.perturbation
        self._values["X"][place] = result.similarity
        for state, shift in result.shifts.items():
            self._values[state][place] = shift
        if result.genes is not None:
            pairs = zip(result.genes.tolist(), result.gene_similarities.tolist(), strict=True)
            for gene, similarity in pairs:
                sums = self._effects.setdefault((result.run.perturbation, gene), [0, 0.0])
                sums[0] += 1
                sums[1] += similarity

    def finish(self, goal: str | None, entry: dict[str, Any]) -> "AnnData":
        """The AnnData that `perturb` returns; shifts to `goal` are tested, and `entry` says how it was made."""
        anndata = require("anndata", extra="anndata")
        ran = ~np.isnan(self._values["X"]).all(axis=0)
        values = {name: matrix[:, ran] for name, matrix in self._values.items()}
        shifts = {f"shift_{name}": matrix for name, matrix in values.items() if name != "X"}
        var = self._summary(np.flatnonzero(ran), values["X"], shifts)
        if goal is not None:
            var["p_value"], var["fdr"] = rank_sum_tests(values[goal])
        result = anndata.AnnData(values["X"], obs=self._obs.copy(), var=var, layers=shifts)
        result.uns["sclm_hf"] = {"perturb": entry}
        if self._effects:
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
        return pandas.DataFrame(
            {
                "perturbation": [self._perturbations[number][0] for number, _ in self._effects],
                "gene": [self._gene_of[gene] for _, gene in self._effects],
                "n_cells": [n for n, _ in self._effects.values()],
                "similarity": [total / n for n, total in self._effects.values()],
            }
        )


def rank_sum_tests(shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p values and false discovery rates of the columns of (cells, perturbations) shifts; NaN = not run.

    Each column's values are compared with those of all columns, or with 100,000 of them, drawn once.
    """
    from scipy.stats import false_discovery_control, ranksums

    everything = shifts[~np.isnan(shifts)]
    if everything.size > MOST_REFERENCE_VALUES:
        everything = np.random.default_rng(42).choice(everything, MOST_REFERENCE_VALUES, replace=False)
    columns = [column[~np.isnan(column)] for column in shifts.T]
    p_values = np.array([ranksums(column, everything).pvalue for column in columns])
    return p_values, false_discovery_control(p_values, method="bh")
