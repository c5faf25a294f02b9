"""What the runs of a block of cells gave, as it is kept and put together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .runs import PerturbationRunner, Run

if TYPE_CHECKING:
    from ...tokenization.processing_cell import CellProcessor
    from ..files.pieces import Pieces

_MOST_WAITING = 2**22
"""Similarities of genes that are kept before they are summed up."""

Sums = tuple[np.ndarray, np.ndarray, np.ndarray]


class BlockResults(NamedTuple):
    """What some runs gave.

    Attributes:
        values: (runs, 1 + states) float32 similarities to the cells as they were, and shifts towards each state.
        effects: sums of [`GeneEffects`]; None unless asked for.
    """

    values: np.ndarray
    effects: Sums | None = None

    @classmethod
    def kept(cls, pieces: "Pieces | None", number: int, n_runs: int, wants_effects: bool) -> "BlockResults | None":
        """Those that are kept as piece `number`; None where there are none, or not all of them."""
        values = None if pieces is None else pieces.load(number, n_runs)
        if values is None or not wants_effects:
            return None if values is None else cls(values)
        arrays = pieces.load_arrays(number)
        return cls(values, tuple(arrays[name] for name in _SUMS)) if arrays.keys() >= set(_SUMS) else None

    def keep(self, pieces: "Pieces", number: int) -> None:
        """Keep them as piece `number`."""
        pieces.save(number, self.values, **dict(zip(_SUMS, self.effects or (), strict=False)))


_SUMS = ("keys", "counts", "sums")


class GeneEffects:
    """Sums over cells of what perturbations do to genes, by perturbation and gene.

    Args:
        processor: its vocabulary has the genes.
    """

    def __init__(self, processor: "CellProcessor") -> None:
        self._n_ids = max(processor.tokenizer.gene_vocabulary.size, 1)
        self._parts: list[Sums] = []
        self._n_waiting = 0

    def __len__(self) -> int:
        """Number of parts that hold something."""
        return len(self._parts)

    def add(self, numbers: np.ndarray, genes: np.ndarray, *values: np.ndarray) -> None:
        """Add values of genes under perturbations, each time as many kinds of them."""
        keys = numbers.astype(np.int64) * self._n_ids + genes
        self.add_sums(keys, np.ones(len(keys), np.int64), np.column_stack(values).astype(np.float64))

    def add_sums(self, keys: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> None:
        """Add what [`sums`] gave of other cells."""
        self._parts.append((keys, counts, sums))
        self._n_waiting += len(keys)
        if self._n_waiting > _MOST_WAITING:
            self.sums()

    def sums(self) -> Sums:
        """Of each perturbation and gene one key, the number of cells and (kinds,) sums over them, by ascending key."""
        keys, counts, sums = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        keys, places = np.unique(keys, return_inverse=True)
        sums = np.column_stack([np.bincount(places, weights=kind, minlength=len(keys)) for kind in sums.T])
        counts = np.bincount(places, weights=counts, minlength=len(keys)).astype(np.int64)
        self._parts, self._n_waiting = [(keys, counts, sums)], 0
        return keys, counts, sums

    def means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Perturbation, gene, number of cells and (kinds, …) means, sorted by the first two."""
        keys, counts, sums = self.sums()
        return keys // self._n_ids, keys % self._n_ids, counts, sums.T / counts


def run_block(runner: PerturbationRunner, runs: Sequence[Run], bar: Any) -> BlockResults:
    """Run perturbations of some cells, all those of a cell one after the other.

    Args:
        runner: runs them.
        runs: the runs.
        bar: progress, in perturbed cells.
    """
    values, effects = [], GeneEffects(runner.loaded.processor)
    for found in runner(runs):
        values.append(np.column_stack([found.similarities, *found.shifts.values()]).astype(np.float32))
        if found.effects is not None:
            which, genes, similarities = found.effects
            changes = () if found.changes is None else (found.changes, found.changes.astype(np.float64) ** 2)
            effects.add(np.array([run.perturbation for run in found.runs])[which], genes, similarities, *changes)
        bar.update(len(found.runs))
    return BlockResults(np.concatenate(values), effects.sums() if runner.gene_effects else None)
