"""`evaluate`: predicted labels scored against true ones, on cells that the model was not trained on."""

import dataclasses
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigurationError
from .annotate import UNASSIGNED, AnnotateSettings, AnnotateVerb, Annotation
from .running.cell_run import Results
from .running.settings import GENES, flag_of, setting
from .running.verb import documented_by

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from anndata import AnnData

    from ..tokenization.processing_cell import CellProcessor

SEEN = "sclm_seen_in_training"
SCORES = "sclm_integration"


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
    prediction: str | None = setting(
        None,
        "instead of labels that a `model` predicts, score those in this column of `obs`; cells without one, or called "
        f"`{UNASSIGNED}`, count as errors.",
    )
    seen: Literal["refuse", "leave_out", "score"] = setting(
        "refuse",
        "what to do when the training manifest of the model names some of the cells: `refuse`, `leave_out` of the "
        f"scores, or `score` them like others; `obs['{SEEN}']` marks them.",
    )

    baselines: bool = setting(
        True,
        "beside the scores of labels those of the most frequent label, and of logistic regression on principal "
        "components that is taught labels of these very cells, in 5 folds of at most 5,000 of them.",
        flag="--baselines/--no-baselines",
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
        if self.prediction is not None:
            self._check_prediction()
        if self.embeddings and not self.batch_key:
            raise ConfigurationError("Name with `batch_key` (`--batch-key`) the column of `obs` with the batches.")

    def _check_prediction(self) -> None:
        """Refuse what tells a model how to label, which labels that are there do not follow."""
        if self.prediction in ("", self.label_key):
            raise ConfigurationError(
                f"`prediction` (`--prediction`) must name a column of `obs` with predicted labels, got "
                f"{self.prediction!r}, and `label_key` is {self.label_key!r}."
            )
        fields = {field.name: field for field in dataclasses.fields(self)}
        for name in ("genes", *inspect.get_annotations(AnnotateSettings)):
            if name != "key_added" and getattr(self, name) != fields[name].default:
                raise ConfigurationError(
                    f"`{name}` (`{flag_of(fields[name])}`) is for a model that labels cells: leave it out with "
                    "`prediction` (`--prediction`)."
                )

    @property
    def embeddings(self) -> list[str]:
        """The embeddings to score, one by one."""
        given = self.embedding.split(",") if isinstance(self.embedding, str) else self.embedding or ()
        return list(dict.fromkeys(name.strip() for name in given if name.strip()))

    def key(self, family: str) -> str:
        """Name of the predictions in `obs`, and of the record; or of the record of scores of what was there."""
        if self.prediction is not None:
            return self.key_added or f"{self.prediction}_scores"
        return super().key(family) if not self.embeddings else self.key_added or SCORES

    def columns(self) -> tuple[str, ...]:
        """Names of the columns that `obs` will get."""
        return (*super().columns(), SEEN)


class Evaluation(Annotation):
    """Labels of cells, compared with those that they have."""

    settings: EvaluateSettings

    def __init__(self, *run: Any) -> None:
        import numpy as np

        from .running.true_labels import TrueLabels

        super().__init__(*run)
        cells, loaded = self.cells, self.loaded
        self.true = TrueLabels(
            cells.source, cells.cell_ids, self.settings, self.label_names, loaded.name, loaded.revision, UNASSIGNED
        )
        self.predicted = np.full(len(cells.cell_ids), "", dtype=object)

    def results(self, cells: "slice | np.ndarray", values: "np.ndarray") -> Results:
        """What [`annotate`] adds, and which cells the model was trained on."""
        import numpy as np

        added = super().results(cells, values)
        self.predicted[cells] = np.asarray(added.obs[self.settings.keys.prediction], dtype=object)
        return Results(obs={**added.obs, SEEN: self.true.seen[cells]}, obsm=added.obsm)

    def facts(self, file: "Path | None") -> dict[str, Any]:
        """The scores, over all scored cells and per label."""
        return {**super().facts(file), **self.true.facts(self.predicted)}


class EvaluateVerb(AnnotateVerb):
    """The verb, whose model may be a task-specific one."""

    def add_to(
        self, adata: "AnnData", model: Any, processor: Any, given: "Mapping[str, Any]", *, copy: bool
    ) -> "AnnData":
        """Annotate, and score; a task-specific model makes its input of all cells by itself."""
        from ..opening.specialists import is_specialist

        if not is_specialist(model, given.get("revision")):
            return super().add_to(adata, model, processor, given, copy=copy)
        import numpy as np

        from ..sources.in_memory import InMemorySource
        from .running.provenance import check_adata, writable
        from .running.specialists import open_specialist
        from .running.true_labels import TrueLabels

        check_adata(adata)
        settings = self.choose(given)
        # of the scores alone
        given = {name: value for name, value in given.items() if name != "baselines"}
        # what cannot be compared is said before anything is run
        loaded, _ = open_specialist(self, model, processor, given)
        # one that annotates, which not all do
        annotator: Any = loaded.processor
        source, labels = InMemorySource(adata, annotator.layer), annotator.labels
        true = TrueLabels(source, source.cell_ids(), settings, labels, loaded.name, loaded.revision, UNASSIGNED)
        target = super().add_to(adata, model, processor, given, copy=copy)
        predicted = np.asarray(target.obs[settings.keys.prediction], dtype=object)
        target.obs[SEEN] = true.seen
        target.uns["sclm_hf"][settings.key(loaded.record.name)] |= writable(true.facts(predicted))
        return target


EVALUATE = EvaluateVerb(
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
    """Annotate the cells of `adata`, and score the labels against those that they have; or score what they hold.

    `prediction` scores a column of labels that was there before, whatever made it. Which checkpoint did is read from
    `uns["sclm_hf"]`; where it is not said, or not here, a warning says that its training cells are not known.

    Embeddings are scored as in scIB (Luecken et al., Nature Methods 19, 41-50 (2022)), through scib-metrics, beside
    the principal components of the same cells, and Harmony on these. PCR compares with these components.

    Cells that the model was trained on, or chosen by, are refused, or left out: `training_manifest.parquet` beside its
    weights says which they are. A model without one says nothing about it, and the record says so.

    Args:
        adata: cells with raw counts.
        model: folder or repository id of a checkpoint with a classification head, or of an adapter; or a loaded model;
            None with `embedding` or `prediction`.
        processor: the processor; by default the one saved with the model.
        **settings: the fields of [`EvaluateSettings`].
        copy: add to a copy in memory; False adds to `adata` itself (but not to the file of a backed one).

    Returns:
        The AnnData with what [`annotate`] adds, and

        - `obs["sclm_seen_in_training"]`: (n_cells,) bool;
        - `uns["sclm_hf"]["sclm_prediction"]`: also `scores` (accuracy and macro-F1 with 95 % bootstrap intervals over
          cells), `per_label` (precision, recall, F1 and cells of each label), `n_scored`, `n_seen`, of these `n_chose`
          (cells that were held out and chose the checkpoint or weights), `has_manifest`, `n_unassigned` (scored cells
          that got no label), `never_named` (labels of scored cells that no cell got), `baselines`
          (`most_frequent` and `logistic_regression`, whose labels are of the same file: no model has had these);

        with `prediction`, instead of these,

        - `uns["sclm_hf"]["<prediction>_scores"]`: the same, `model`, which made the column, and `unchecked`, why cells
          of its training could not be looked for, empty where they were;
        - `obs["sclm_seen_in_training"]`, where they were;

        and with `embedding`,

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
    if [model is not None, bool(chosen.embeddings), chosen.prediction is not None].count(True) != 1:
        raise ConfigurationError(
            "Name what to evaluate: either a `model` (`--model`) that labels cells, or an `embedding` "
            "(`--embedding`) in `obsm`, or a `prediction` (`--prediction`), a column of `obs` with labels."
        )
    if model is not None:
        return EVALUATE.add_to(adata, model, processor, settings, copy=copy)
    if chosen.prediction is not None:
        from .running.predicted_labels import score_predictions

        return score_predictions(adata, chosen, SEEN, UNASSIGNED, copy=copy)
    from .integration.scoring import score_embeddings

    return score_embeddings(adata, chosen, SEEN, copy=copy)
