"""`evaluate`: predicted labels scored against true ones, on cells that the model was not trained on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigurationError, CorpusError, require
from ..logging import counted, warn
from .annotate import UNASSIGNED, AnnotateSettings, Annotation
from .running.cell_run import Results
from .running.settings import setting
from .running.verb import Verb, documented_by

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from anndata import AnnData

    from ..tokenization.processing_cell import CellProcessor

SEEN = "sclm_seen_in_training"
_SPLIT = "cells"


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(AnnotateSettings):
    """Settings of [`evaluate`].

    Raises:
        ConfigurationError: `label_key` is missing, or `seen` is none of its values.
    """

    label_key: str = setting("", "column of `obs` with the true labels; cells without one are not scored.")
    seen: Literal["refuse", "leave_out", "score"] = setting(
        "refuse",
        "what to do when the training manifest of the model names some of the cells: `refuse`, `leave_out` of the "
        f"scores, or `score` them like others; `obs['{SEEN}']` marks them.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.label_key:
            raise ConfigurationError("Name with `label_key` (`--label-key`) the column of `obs` with the true labels.")
        if self.seen not in ("refuse", "leave_out", "score"):
            raise ConfigurationError(f"`seen` (`--seen`) is 'refuse', 'leave_out' or 'score', got {self.seen!r}.")

    def columns(self) -> tuple[str, ...]:
        """Names of the columns that `obs` will get."""
        return (*super().columns(), SEEN)


class Evaluation(Annotation):
    """Labels of cells, compared with those that they have."""

    settings: EvaluateSettings

    def __init__(self, *run: Any) -> None:
        import numpy as np

        super().__init__(*run)
        source = self.cells.source
        column = source.column(self.settings.label_key)
        source.close()
        self.true = np.array([*column.categories, ""], dtype=object)[column.codes]
        self.predicted = np.full(len(self.true), "", dtype=object)
        self._check_labels()
        self.trained, self.chose, self.has_manifest = self._seen()
        if self.settings.seen == "refuse" and self.seen.any():
            raise ConfigurationError(
                f"{self.seen.sum():,} of the {counted(len(self.seen), 'cell')} of `{source.location}` stand in the "
                f"training manifest of `{self.loaded.name}` ({self.trained.sum():,} trained on, {self.chose.sum():,} "
                "held out to choose the checkpoint or weights): scores on them say nothing about new cells. Give "
                "others, or say `seen='leave_out'` (`--seen leave_out`)."
            )

    @property
    def seen(self) -> "np.ndarray":
        """(cells,) which the model was trained on or chosen by."""
        return self.trained | self.chose

    def _check_labels(self) -> None:
        found = set(self.true) - {""}
        if not found & set(self.label_names):
            raise ConfigurationError(
                f"`obs[{self.settings.label_key!r}]` holds none of the {len(self.label_names)} labels of the model, "
                f"{self.label_names[:5]}; it holds {sorted(found)[:5]}: name another `label_key` (`--label-key`), or "
                "rename the labels."
            )
        if unknown := sorted(found - set(self.label_names)):
            warn(
                f"The model does not know {counted(len(unknown), 'label')} of `obs[{self.settings.label_key!r}]`, "
                f"{unknown[:5]}: cells with them count as errors."
            )

    def _seen(self) -> "tuple[np.ndarray, np.ndarray, bool]":
        """(cells,) which the model was trained on, (cells,) which others chose it, and whether it says which."""
        import numpy as np

        from ..corpora.training_manifest import TRAINED, hash_counts, hash_genes, read_manifest
        from ..sources.survey import row_blocks

        known, source = self.loaded.name != "in memory", self.cells.source
        manifest = read_manifest(self.loaded.name, self.loaded.revision or None) if known else None
        if manifest is None:
            return np.zeros(len(self.true), bool), np.zeros(len(self.true), bool), False
        genes = hash_genes(source)
        rows = np.arange(source.n_cells)
        hashes = [hash_counts(source.read(rows[block]), genes) for block in row_blocks(source.n_cells)]
        source.close()
        cells = source.name, self.cells.cell_ids, np.concatenate(hashes)
        trained = manifest.part(TRAINED).holds(*cells)
        return trained, manifest.holds(*cells) & ~trained, True

    def results(self, cells: "slice | np.ndarray", values: "np.ndarray") -> Results:
        """What [`annotate`] adds, and which cells the model was trained on."""
        import numpy as np

        added = super().results(cells, values)
        self.predicted[cells] = np.asarray(added.obs[self.settings.keys.prediction], dtype=object)
        return Results(obs={**added.obs, SEEN: self.seen[cells]}, obsm=added.obsm)

    def facts(self, file: "Path | None") -> dict[str, Any]:
        """The scores, over all scored cells and per label."""
        scored = self.true != ""
        if self.settings.seen == "leave_out":
            scored &= ~self.seen
        if not scored.any():
            raise CorpusError(f"No cell of `{self.cells.source.location}` is left to score.")
        return {
            **super().facts(file),
            "n_scored": int(scored.sum()),
            "n_seen": int(self.seen.sum()),
            "n_chose": int(self.chose.sum()),
            "has_manifest": self.has_manifest,
            "scores": self._scores(scored),
            "per_label": self._per_label(scored),
        }

    def _scores(self, scored: "np.ndarray") -> dict[str, dict[str, float]]:
        import numpy as np

        from ..evaluation.metrics import METRICS, Predictions, estimate

        tested = [Predictions(_SPLIT, np.flatnonzero(scored), self.true[scored], self.predicted[scored])]
        estimates = {metric: estimate(tested, metric) for metric in METRICS}
        return {metric: {"mean": one.mean, "low": one.low, "high": one.high} for metric, one in estimates.items()}

    def _per_label(self, scored: "np.ndarray") -> "dict[str, np.ndarray]":
        import numpy as np

        metrics = require("sklearn.metrics", extra="evaluation")
        true, predicted = self.true[scored].astype(str), self.predicted[scored].astype(str)
        names = sorted(set(true) | (set(predicted) - {UNASSIGNED}))
        values = metrics.precision_recall_fscore_support(true, predicted, labels=names, zero_division=0)
        columns = dict(zip(("precision", "recall", "f1", "n_cells"), values, strict=True))
        return {"label": np.array(names, dtype=object), **columns}


EVALUATE = Verb(
    name="evaluate",
    auto_class="AutoModelForSequenceClassification",
    settings=EvaluateSettings,
    writes=("obs", "obsm"),
    run=Evaluation,
    usage='cells = sclm_hf.evaluate(cells, "{model}", label_key="cell_type")\n'
    'cells.uns["sclm_hf"]["sclm_prediction"]["scores"]',
)


@documented_by(EVALUATE)
def evaluate(
    adata: "AnnData",
    model: Any,
    processor: "CellProcessor | None" = None,
    *,
    copy: bool = True,
    **settings: Any,
) -> "AnnData":
    """Annotate the cells of `adata`, and score the labels against those that they have.

    Cells that the model was trained on, or chosen by, are refused, or left out: `training_manifest.parquet` beside its
    weights says which they are. A model without one says nothing about it, and the record says so.

    Args:
        adata: cells with raw counts.
        model: folder or repository id of a checkpoint with a classification head, or of an adapter; or a loaded model.
        processor: the processor; by default the one saved with the model.
        **settings: the fields of [`EvaluateSettings`].
        copy: add to a copy in memory; False adds to `adata` itself (but not to the file of a backed one).

    Returns:
        The AnnData with what [`annotate`] adds, and

        - `obs["sclm_seen_in_training"]`: (n_cells,) bool;
        - `uns["sclm_hf"]["sclm_prediction"]`: also `scores` (accuracy and macro-F1 with 95 % bootstrap intervals over
          cells), `per_label` (precision, recall, F1 and cells of each label), `n_scored`, `n_seen`, of these `n_chose`
          (cells that were held out and chose the checkpoint or weights), `has_manifest`.

    Raises:
        ConfigurationError: the model was trained on some of the cells; the column has none of the model's labels; or
            settings are out of range.
        CheckpointError: the model has no trained classification head, or it or its manifest cannot be read.
        CorpusError: no cell is left to score, or `obs` lacks the column.
        GeneCoverageError: the model knows too few of the genes.
        ExpressionError: the data are not what the model's encoding expects.
    """
    return EVALUATE.add_to(adata, model, processor, settings, copy=copy)
