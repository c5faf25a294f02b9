"""`evaluate`: predicted labels scored against true ones, on cells that the model was not trained on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigurationError, CorpusError, require
from ..logging import counted, warn
from .annotate import UNASSIGNED, AnnotateSettings, AnnotateVerb, Annotation
from .running.cell_run import Results
from .running.settings import GENES, setting
from .running.verb import documented_by

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from anndata import AnnData

    from ..tokenization.processing_cell import CellProcessor

SEEN = "sclm_seen_in_training"
SCORES = "sclm_integration"
_SPLIT = "cells"


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(AnnotateSettings):
    """Settings of [`evaluate`].

    Raises:
        ConfigurationError: `label_key` is missing, or `seen` is none of its values.
    """

    label_key: str = setting("", "column of `obs` with the true labels; cells without one are not scored.")
    embedding: "str | Sequence[str] | None" = setting(
        None,
        "instead of labels that a `model` predicts, score embeddings in `obsm` for integration, in the command "
        "separated by commas, beside principal components and Harmony; needs `batch_key`.",
    )
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
        if self.embedding is not None and not self.embeddings:
            raise ConfigurationError("`embedding` (`--embedding`) names no embedding in `obsm`.")
        if self.embeddings and self.genes is not None:
            raise ConfigurationError(f"{GENES} is what a model reads: leave it out with `embedding` (`--embedding`).")
        if self.embeddings and not self.batch_key:
            raise ConfigurationError("Name with `batch_key` (`--batch-key`) the column of `obs` with the batches.")

    @property
    def embeddings(self) -> list[str]:
        """The embeddings to score, one by one."""
        given = self.embedding.split(",") if isinstance(self.embedding, str) else self.embedding or ()
        return list(dict.fromkeys(name.strip() for name in given if name.strip()))

    def key(self, family: str) -> str:
        """Name of the predictions in `obs`, and of the record; or of the record of scores of embeddings."""
        return super().key(family) if not self.embeddings else self.key_added or SCORES

    def columns(self) -> tuple[str, ...]:
        """Names of the columns that `obs` will get."""
        return (*super().columns(), SEEN)


class Evaluation(Annotation):
    """Labels of cells, compared with those that they have."""

    settings: EvaluateSettings

    def __init__(self, *run: Any) -> None:
        import numpy as np

        from .running.seen import seen_by

        super().__init__(*run)
        source = self.cells.source
        column = source.column(self.settings.label_key)
        source.close()
        self.true = np.array([*column.categories, ""], dtype=object)[column.codes]
        self.predicted = np.full(len(self.true), "", dtype=object)
        self._check_labels()
        model = None if self.loaded.name == "in memory" else self.loaded.name
        self.trained, self.chose, self.has_manifest = seen_by(model, self.loaded.revision, source, self.cells.cell_ids)
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


EVALUATE = AnnotateVerb(
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
    model: Any = None,
    processor: "CellProcessor | None" = None,
    *,
    copy: bool = True,
    **settings: Any,
) -> "AnnData":
    """Annotate the cells of `adata`, and score the labels against those that they have; or score an embedding.

    Embeddings are scored as in scIB (Luecken et al., Nature Methods 19, 41-50 (2022)), through scib-metrics, beside
    the principal components of the same cells, and Harmony on these. PCR compares with these components.

    Cells that the model was trained on, or chosen by, are refused, or left out: `training_manifest.parquet` beside its
    weights says which they are. A model without one says nothing about it, and the record says so.

    Args:
        adata: cells with raw counts.
        model: folder or repository id of a checkpoint with a classification head, or of an adapter; or a loaded model;
            None with `embedding`.
        processor: the processor; by default the one saved with the model.
        **settings: the fields of [`EvaluateSettings`].
        copy: add to a copy in memory; False adds to `adata` itself (but not to the file of a backed one).

    Returns:
        The AnnData with what [`annotate`] adds, and

        - `obs["sclm_seen_in_training"]`: (n_cells,) bool;
        - `uns["sclm_hf"]["sclm_prediction"]`: also `scores` (accuracy and macro-F1 with 95 % bootstrap intervals over
          cells), `per_label` (precision, recall, F1 and cells of each label), `n_scored`, `n_seen`, of these `n_chose`
          (cells that were held out and chose the checkpoint or weights), `has_manifest`;

        and with `embedding`, instead of these,

        - `uns["sclm_hf"]["sclm_integration"]`: `scores`, the columns `embedding` (`PCA` and `PCA + Harmony` first),
          `nmi`, `ari`, `asw_label`, `isolated_labels`, `clisi`, `asw_batch`, `graph_connectivity`, `ilisi`, `kbet`,
          `pcr`, and the means `biology`, `mixing` and `total`, 1 being best (see
          `sclm_hf.evaluation.integration.scores`); `n_scored`, `n_seen`, `has_manifest`.

    Raises:
        ConfigurationError: the model was trained on some of the cells; the column has none of the model's labels; or
            settings are out of range.
        CheckpointError: the model has no trained classification head, or it or its manifest cannot be read.
        CorpusError: no cell is left to score, or `obs` lacks the column.
        GeneCoverageError: the model knows too few of the genes.
        ExpressionError: the data are not what the model's encoding expects.
    """
    chosen = EVALUATE.choose(settings)
    if (model is None) == (not chosen.embeddings):
        raise ConfigurationError(
            "Name what to evaluate: either a `model` (`--model`) that labels cells, or an `embedding` "
            "(`--embedding`) in `obsm`."
        )
    if model is not None:
        return EVALUATE.add_to(adata, model, processor, settings, copy=copy)
    from .integration.scoring import score_embeddings

    return score_embeddings(adata, chosen, SEEN, copy=copy)
