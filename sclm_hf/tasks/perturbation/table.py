"""Results of perturbations as an AnnData: cells × perturbations, with means and tests."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import require
from .intervals import describe_intervals, mean_intervals
from .runs import RunResults
from .shift_tests import compare_shifts, describe_tests

_MOST_WAITING = 2**22
"""Similarities of genes that are kept before they are summed up."""

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
        self._effects = _Effects(max(processor.tokenizer.gene_vocabulary.size, 1))
        self._gene_of = {token: gene for gene, token in processor.tokenizer.gene_vocabulary.items()}

    def add(self, results: RunResults) -> None:
        """Take in what runs gave."""
        rows = [self._row_of[run.cell] for run in results.runs]
        numbers = np.array([run.perturbation for run in results.runs])
        self._values["X"][rows, numbers] = results.similarities
        for state, shifts in results.shifts.items():
            self._values[state][rows, numbers] = shifts
        if results.effects is not None:
            which, genes, similarities = results.effects
            self._effects.add(numbers[which], genes, similarities)

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
        numbers, genes, n_cells, similarities = self._effects.means()
        return pandas.DataFrame(
            {
                "perturbation": [self._perturbations[number][0] for number in numbers.tolist()],
                "gene": [self._gene_of[gene] for gene in genes.tolist()],
                "n_cells": n_cells,
                "similarity": similarities,
            }
        )


class _Effects:
    """Sums over cells of the similarities of genes, by perturbation and gene.

    Args:
        n_ids: size of the vocabulary.
    """

    def __init__(self, n_ids: int) -> None:
        self._n_ids = n_ids
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._n_waiting = 0

    def __len__(self) -> int:
        """Number of parts that hold something."""
        return len(self._parts)

    def add(self, numbers: np.ndarray, genes: np.ndarray, similarities: np.ndarray) -> None:
        """Add similarities of genes under perturbations."""
        keys = numbers.astype(np.int64) * self._n_ids + genes
        self._parts.append((keys, np.ones(len(keys), np.int64), similarities.astype(np.float64)))
        self._n_waiting += len(keys)
        if self._n_waiting > _MOST_WAITING:
            self._sum_up()

    def means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Perturbation, gene, number of cells and mean similarity, sorted by the first two."""
        self._sum_up()
        keys, counts, sums = self._parts[0]
        return keys // self._n_ids, keys % self._n_ids, counts, sums / counts

    def _sum_up(self) -> None:
        keys, counts, sums = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        keys, places = np.unique(keys, return_inverse=True)
        sums = np.bincount(places, weights=sums, minlength=len(keys))
        counts = np.bincount(places, weights=counts, minlength=len(keys)).astype(np.int64)
        self._parts, self._n_waiting = [(keys, counts, sums)], 0


def shift_name(state: str) -> str:
    """Name of the shifts towards a state in `layers` and `var`; `|` for `/`, which no `.h5ad` file can hold."""
    return f"shift_{state}".replace("/", "|")
