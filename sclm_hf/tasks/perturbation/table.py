"""Results of perturbations as an AnnData: cells × perturbations, with means and tests."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import require
from .runs import RunResult
from .shift_tests import compare_shifts, describe_tests

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

    from ...tokenization.processing_cell import CellProcessor


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

    def finish(
        self, entry: dict[str, Any], n_expressing: np.ndarray, goal: str | None = None, donor_key: str | None = None
    ) -> "AnnData":
        """The AnnData that `perturb` returns.

        Args:
            entry: how it was made.
            n_expressing: (perturbations,) cells that express the genes of each.
            goal: the state to which shifts are tested.
            donor_key: column of `obs` with what counts once in the tests; None = each cell counts.
        """
        anndata = require("anndata", extra="anndata")
        ran = ~np.isnan(self._values["X"]).all(axis=0)
        values = {name: matrix[:, ran] for name, matrix in self._values.items()}
        shifts = {f"shift_{name}": matrix for name, matrix in values.items() if name != "X"}
        var = self._summary(np.flatnonzero(ran), values["X"], shifts)
        var.insert(2, "n_expressing", n_expressing[ran])
        if goal is not None:
            units = None if donor_key is None else self._obs[donor_key].astype("category").cat.codes.to_numpy()
            tests = compare_shifts(values[goal], units)
            var["n_units"], var["p_value"], var["fdr"] = tests
            entry = {**entry, "test": describe_tests(tests, donor_key)}
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
