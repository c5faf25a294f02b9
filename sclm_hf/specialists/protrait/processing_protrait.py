"""What PROTRAIT reads: the DNA of peaks, and in which cells these are open."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from transformers import BatchFeature

from ...errors import ConfigurationError, require
from ...tokenization.expression_matrix import select_counts
from ..cells import read_counts, without_label
from ..peaks import read_peaks
from ..processing import Examples, SpecialistProcessor
from ..transductive import names_of
from .genome_protrait import read_windows


@dataclass
class PROTRAITProcessor(SpecialistProcessor):
    """Bases around the middle of peaks, (peaks, bases); and for training, which cells they are open in.

    Peaks are the examples and cells the outputs: a model knows the cells that it was trained on, by their names.

    Attributes:
        cell_names: names of these cells, in the order of the outputs.
        peaks: names of the peaks that were learnt from, by which cells of other data are told; none in older folders.
        labels: the labels that some or all of them have, where `label_key` was given.
        label_of: the number of each cell's label; -1 where it has none.
        label_key: the column of `obs` that they are from; cells without a label get one by `annotate`.
        layer: the layer with the counts; None = as everywhere: `layers["counts"]`, `raw`, `X`.
        sequence_length: bases that are read of a peak.
        min_share: share of the cells that a peak must be open in to be learnt from.
    """

    learnt: ClassVar[tuple[str, ...]] = ("cell_names", "peaks", "labels", "label_of")

    cell_names: list[str] = field(default_factory=list)
    peaks: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    label_of: list[int] = field(default_factory=list)
    label_key: str | None = None
    layer: str | None = None
    sequence_length: int = 1344
    min_share: float = 0.0

    @classmethod
    def fit(
        cls,
        cells: Any,
        *,
        genome: str | Path | None = None,
        label_key: str | None = None,
        layer: str | None = None,
        **settings: Any,
    ) -> Self:
        """The processor of a new model for these cells.

        Args:
            cells: cells with counts of peaks, whose names are like `chr1:100-600`.
            genome: the genome that the peaks were called in, a FASTA file, `.fa` or `.fa.gz`.
            label_key, layer, **settings: as the class says.

        Raises:
            ConfigurationError: names of cells are doubled, names of peaks are none, or the genome does not fit them.
            ExpressionError: the values are no counts.
        """
        processor = cls(label_key=label_key, layer=layer, **settings)
        if genome is None:
            raise ConfigurationError(
                "PROTRAIT reads the DNA of peaks: name the genome that they were called in, a `.fa` or `.fa.gz` file, "
                "with `genome` (`--set genome=FILE`)."
            )
        if processor.sequence_length < 1 or not 0 <= processor.min_share < 1:
            raise ConfigurationError(
                "`sequence_length` must be at least 1 and `min_share` from 0 to below 1, got "
                f"{processor.sequence_length} and {processor.min_share}."
            )
        processor._read_cells(cells)
        counts = read_counts(cells, layer)
        is_open = counts.matrix > 0
        kept = np.flatnonzero(np.asarray(is_open.mean(axis=0)).ravel() >= processor.min_share)
        if not len(kept):
            raise ConfigurationError(f"No peak is open in {processor.min_share:.0%} of the cells: lower `min_share`.")
        processor.peaks = [counts.genes[column] for column in kept]
        # the genome and what it says of the peaks stay out of the folder
        processor._windows = read_windows(genome, read_peaks(processor.peaks), processor.sequence_length)
        processor._open = is_open[:, kept].T.tocsr()
        return processor

    def check_learnt(self) -> None:
        if self.labels and len(self.label_of) != len(self.cell_names):
            raise ValueError("`label_of` must be as many as `cell_names`.")
        if not all(-1 <= one < len(self.labels) for one in self.label_of):
            raise ValueError("`label_of` must be numbers of `labels`, or -1.")

    def config_settings(self) -> dict[str, Any]:
        return {"num_cells": len(self.cell_names), "sequence_length": self.sequence_length}

    def __call__(self, peaks: Sequence[str], *, genome: str | Path, return_tensors: str | None = None) -> BatchFeature:
        """`input_ids`, (peaks, bases) int64, for names of peaks; errors as for `read_peaks` and `read_windows`."""
        windows = read_windows(genome, read_peaks(peaks), self.sequence_length)
        return BatchFeature({"input_ids": windows.astype(np.int64)}, tensor_type=return_tensors)

    def examples(self, cells: Any, seed: int) -> Examples:
        windows, is_open = self._windows, self._open

        def make(peaks: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
            labels = is_open[peaks].toarray().astype(np.float32)
            return {"input_ids": windows[peaks].astype(np.int64), "labels": labels}

        return Examples(len(windows), make)

    def results(
        self, verb: str, model: Any, cells: Any, *, key_added: str | None = None, **settings: Any
    ) -> dict[str, Any]:
        rows = self._rows(cells)
        embedded = model.cell_embeddings().float().cpu().numpy()
        if verb == "embed":
            return {"obsm": {key_added or "X_protrait": embedded[rows]}}
        return {"probabilities": self._probabilities(embedded)[rows], "labels": self.labels}

    def _rows(self, cells: Any) -> list[int]:
        """Numbers of the cells among those of training.

        Raises:
            ConfigurationError: there is another, or the peaks are others.
        """
        row_of = {name: row for row, name in enumerate(self.cell_names)}
        names = [str(name) for name in cells.obs_names]
        if others := [name for name in names if name not in row_of]:
            raise ConfigurationError(
                f"PROTRAIT knows only the {len(row_of):,} cells that it was trained on, and {len(others):,} of "
                f"{len(names):,} are others, such as {others[0]!r}: leave them out, or train it on all of them, where "
                "those to annotate have no label."
            )
        measured = set(map(str, select_counts(cells, self.layer)[1]))
        if missing := [name for name in self.peaks if name not in measured]:
            raise ConfigurationError(
                f"Cells are named like those that PROTRAIT was trained on, but {len(missing):,} of its "
                f"{len(self.peaks):,} peaks are not among theirs, such as {missing[0]!r}: give the data of training, "
                "or train it on these."
            )
        return [row_of[name] for name in names]

    def _probabilities(self, embedded: np.ndarray) -> np.ndarray:
        """(cells, labels) by logistic regression on the vectors of those cells that have a label."""
        if not self.labels:
            raise ConfigurationError(
                "This PROTRAIT was trained without labels: name their column in `fit` with `label_key` "
                "(`--label-key`)."
            )
        labels = np.array(self.label_of)
        scaled = (embedded - embedded.mean(axis=0)) / np.maximum(embedded.std(axis=0), 1e-9)
        regression = require("sklearn.linear_model", extra="evaluation").LogisticRegression(max_iter=1000)
        regression.fit(scaled[labels >= 0].astype(np.float64), labels[labels >= 0])
        return regression.predict_proba(scaled.astype(np.float64))

    def _read_cells(self, cells: Any) -> None:
        """Read names of cells, and labels where there are some."""
        self.cell_names = names_of(cells, "PROTRAIT")
        if self.label_key is None:
            return
        if self.label_key not in cells.obs:
            raise ConfigurationError(
                f"`label_key` (`--label-key`) {self.label_key!r} is no column of `obs`, which has "
                f"{', '.join(map(str, cells.obs.columns)) or 'none'}."
            )
        values = cells.obs[self.label_key]
        known = ~without_label(values)
        names, numbers = np.unique(values[known].astype(str).to_numpy(), return_inverse=True)
        if len(names) < 2:
            raise ConfigurationError(
                f"`obs[{self.label_key!r}]` has {len(names)} label: a classifier needs at least two."
            )
        self.labels, label_of = [str(name) for name in names], np.full(len(known), -1)
        label_of[known] = numbers
        self.label_of = label_of.tolist()
