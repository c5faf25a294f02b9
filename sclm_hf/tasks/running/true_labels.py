"""Labels that cells have beside those that a model predicts, and which of the cells it knows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError, CorpusError, require
from ...evaluation.metrics import METRICS, Predictions, estimate
from ...logging import counted, warn
from ...sources.cell_source import CellSource
from .label_baselines import label_baselines
from .seen import seen_by

if TYPE_CHECKING:
    from ..evaluate import EvaluateSettings

_SPLIT = "cells"


class TrueLabels:
    """What predictions for the cells of a source are compared with.

    Args:
        source: the cells.
        cell_ids: (n_cells,) uint64 made from their names.
        settings: of the verb.
        known: labels of the model.
        model: folder or repository of the model, or "in memory" where there is none to ask.
        revision: commit on the Hub.
        unassigned: what a cell is called that gets no label.
        predicted_in: where labels that no model was asked for are from, for messages.

    Raises:
        ConfigurationError: the column has none of the labels, or the model was trained on some of the cells.
        CheckpointError: the training manifest of the model is damaged.
    """

    def __init__(
        self,
        source: CellSource,
        cell_ids: np.ndarray,
        settings: "EvaluateSettings",
        known: Sequence[str],
        model: str | Path,
        revision: str,
        unassigned: str,
        *,
        predicted_in: str = "",
    ) -> None:
        column = source.column(settings.label_key)
        source.close()
        self._source, self._cell_ids = source, cell_ids
        self.settings, self._where, self._unassigned = settings, source.location, unassigned
        self._true = np.array([*column.categories, ""], dtype=object)[column.codes]
        self._check(list(known), predicted_in)
        self.trained, self.chose, self.has_manifest = seen_by(
            None if model == "in memory" else model, revision, source, cell_ids
        )
        if settings.seen == "refuse" and self.seen.any():
            raise ConfigurationError(
                f"{self.seen.sum():,} of the {counted(len(self.seen), 'cell')} of `{source.location}` stand in the "
                f"training manifest of `{model}` ({self.trained.sum():,} trained on, {self.chose.sum():,} "
                "held out to choose the checkpoint or weights): scores on them say nothing about new cells. Give "
                "others, or say `seen='leave_out'` (`--seen leave_out`)."
            )

    @property
    def seen(self) -> np.ndarray:
        """(cells,) which the model was trained on or chosen by."""
        return self.trained | self.chose

    def facts(self, predicted: np.ndarray) -> dict[str, Any]:
        """The scores of (cells,) predicted labels, over all scored cells and per label.

        Raises:
            CorpusError: no cell is left to score.
        """
        scored = self._true != ""
        if self.settings.seen == "leave_out":
            scored &= ~self.seen
        if not scored.any():
            raise CorpusError(f"No cell of `{self._where}` is left to score.")
        facts = {
            "n_scored": int(scored.sum()),
            "n_seen": int(self.seen.sum()),
            "n_chose": int(self.chose.sum()),
            "has_manifest": self.has_manifest,
            "n_unassigned": int((predicted[scored] == self._unassigned).sum()),
            "never_named": np.array(sorted(set(self._true[scored]) - set(predicted[scored])), dtype=object),
            "scores": self._scores(predicted, scored),
            "per_label": self._per_label(predicted, scored),
        }
        if self.settings.baselines:
            seed = self.settings.seed
            facts["baselines"] = label_baselines(self._source, self._cell_ids, self._true, scored, seed)
        return facts

    def _check(self, known: list[str], predicted_in: str) -> None:
        found, key = set(self._true) - {""}, self.settings.label_key
        if not found & set(known):
            raise ConfigurationError(
                f"`obs[{key!r}]` holds none of the {len(known)} labels of {predicted_in or 'the model'}, "
                f"{known[:5]}; it holds {sorted(found)[:5]}: name another `label_key` (`--label-key`), or rename the "
                "labels."
            )
        # what labels that were there could have been is not known
        if (unknown := sorted(found - set(known))) and not predicted_in:
            warn(
                f"The model does not know {counted(len(unknown), 'label')} of `obs[{key!r}]`, {unknown[:5]}: cells "
                "with them count as errors."
            )

    def _scores(self, predicted: np.ndarray, scored: np.ndarray) -> dict[str, dict[str, float]]:
        tested = [Predictions(_SPLIT, np.flatnonzero(scored), self._true[scored], predicted[scored])]
        estimates = {metric: estimate(tested, metric) for metric in METRICS}
        return {metric: {"mean": one.mean, "low": one.low, "high": one.high} for metric, one in estimates.items()}

    def _per_label(self, predicted: np.ndarray, scored: np.ndarray) -> dict[str, np.ndarray]:
        metrics = require("sklearn.metrics", extra="evaluation")
        true, predicted = self._true[scored].astype(str), predicted[scored].astype(str)
        names = sorted(set(true) | (set(predicted) - {self._unassigned}))
        values = metrics.precision_recall_fscore_support(true, predicted, labels=names, zero_division=0)
        columns = dict(zip(("precision", "recall", "f1", "n_cells"), values, strict=True))
        return {"label": np.array(names, dtype=object), **columns}
