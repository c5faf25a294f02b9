"""`annotate`: a label, its probability and those of all other labels for each cell."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConfigurationError, require
from .running.cell_run import CellRun, Results
from .running.settings import AddingSettings, setting
from .running.verb import Verb, documented_by

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import torch
    from anndata import AnnData
    from pandas import Categorical
    from transformers.utils import ModelOutput

    from ..opening.loading import LoadedModel
    from ..tokenization.processing_cell import CellProcessor

UNASSIGNED = "unassigned"
PREDICTION = "sclm_prediction"


class Keys(NamedTuple):
    """Names of the results: two columns of `obs`, and the probabilities in `obsm`."""

    prediction: str
    confidence: str
    probabilities: str


@dataclass(frozen=True, kw_only=True)
class AnnotateSettings(AddingSettings):
    """Settings of [`annotate`]."""

    key_added: str | None = setting(
        None,
        f"name of the labels in `obs`; default `{PREDICTION}`. With other names, the labels of several models can "
        "stand side by side; their probabilities are then called `<key_added>_confidence` and "
        "`<key_added>_probabilities`.",
        flag="--key",
        recorded=False,
    )
    unassigned_threshold: float = setting(
        0.0,
        f"cells whose highest probability is below it are called `{UNASSIGNED}`; between 0 and 1.",
        least=0,
        most=1,
    )
    level: int | None = setting(
        None,
        "level of the ontology on which to label: 1 = its coarsest groups, 2 = the groups in these, and so on; by "
        "default the labels that the model was trained for.",
        least=1,
    )
    evidence: float = setting(
        0.0,
        "least probability of a label: a cell whose most probable label falls short gets the name of the smallest "
        f"group above it that does not, and `{UNASSIGNED}` where none does; between 0 and 1.",
        least=0,
        most=1,
    )
    ontology: str | None = setting(
        None,
        "groups of labels for `level` and `evidence`: blood, retina, heart, pancreas or a YAML file, several joined "
        "by +; by default those that the model was trained with.",
    )
    partners: bool | None = setting(
        None,
        "whether the classifiers that `finetune` saved with the model, and weighted, label the cells together with "
        "it; by default they do where there are some, and True refuses a model without.",
        flag="--partners/--no-partners",
    )
    labels: "str | Mapping[str, str | Sequence[str]] | Sequence[str] | None" = setting(
        None,
        "cell types as texts, for a dual encoder of cells and text: label -> its description, or names, whose "
        "definitions in the Cell Ontology are taken; or a CSV file with the columns `label` and `text`.",
        recorded=False,
    )

    @property
    def keys(self) -> Keys:
        """The names of the results."""
        stem = "sclm" if self.key_added in (None, PREDICTION) else self.key_added
        return Keys(self.key_added or PREDICTION, f"{stem}_confidence", f"{stem}_probabilities")

    def key(self, family: str) -> str:
        """Name of the labels in `obs`, and of their record."""
        return self.keys.prediction

    def columns(self) -> tuple[str, ...]:
        """Names of the columns that `obs` will get."""
        return self.keys[:2]


class Annotation(CellRun[AnnotateSettings]):
    """Labels of cells and their probabilities."""

    def __init__(self, *run: Any) -> None:
        from .running.label_groups import groups_of
        from .running.partners import PartnerRuns

        super().__init__(*run)
        self._partners = PartnerRuns(self.loaded, self.cells, self.settings)
        settings = self.settings
        self._groups = groups_of(self.config, self.label_names, settings.ontology, settings.level, settings.evidence)

    def read(self, output: "ModelOutput") -> "torch.Tensor":
        """(batch, n_labels) probabilities of the labels."""
        return output.logits.float().softmax(dim=-1)

    def forward(self, model: Any, batch: "dict[str, torch.Tensor]") -> "torch.Tensor":
        """Run the model; where its partners alone count, what stands for it has no weight."""
        if self.loaded.partners is None or self.loaded.partners.model_weight > 0:
            return super().forward(model, batch)
        import torch

        return torch.full((len(batch["attention_mask"]), self.config.num_labels), 1 / self.config.num_labels)

    @property
    def label_names(self) -> list[str]:
        """The labels that the model was trained for, in the order of its classes."""
        return [self.config.id2label[index] for index in range(self.config.num_labels)]

    def results(self, cells: "slice | np.ndarray", values: "np.ndarray") -> Results:
        """Labels, the probability of each, and those of all labels."""
        keys, values = self.settings.keys, self._partners.combine(cells, values)
        labels, confidence = self._named(values)
        obs = {keys.prediction: labels, keys.confidence: confidence}
        return Results(obs=obs, obsm={keys.probabilities: values})

    def _named(self, values: "np.ndarray") -> "tuple[Categorical, np.ndarray]":
        """The label of each cell, and its probability."""
        threshold = self.settings.unassigned_threshold
        if self._groups is None:
            return predictions(values, self.label_names, threshold)
        codes, confidence = self._groups.call(values, self.settings.evidence)
        return categorical(codes, confidence, self._groups.names, max(threshold, self.settings.evidence))

    def facts(self, file: "Path | None") -> dict[str, Any]:
        """The names of the columns of the probabilities, and the weights of the model and its partners, if any."""
        import numpy as np

        partners = self.loaded.partners
        weights = {"partners": partners.weights} if partners else {}
        return {"label_names": np.array(self.label_names, dtype=object), **weights}


class AnnotateVerb(Verb):
    """The verb, whose model may also be one of cells and text.

    A dual encoder is told the labels as texts; a language model, whether it reads cells as sentences or as soft
    tokens, has its own beside it.
    """

    def load(self, model: Any, processor: "CellProcessor | None", settings: AnnotateSettings) -> "LoadedModel":
        """Load the model; with `labels` it is a dual encoder, and with a `candidates.json` a language model.

        Raises:
            ConfigurationError: partners are asked for, and it has none.
        """
        loaded = self._loaded(model, processor, settings)
        if settings.partners and loaded.partners is None:
            raise ConfigurationError(
                f"`{loaded.name}` has no partners, which `finetune` saves with models of one task: leave out "
                "`partners` (`--partners`)."
            )
        return loaded

    def of_specialist(
        self, found: "Mapping[str, Any]", settings: AnnotateSettings, family: str, names: "Sequence[str]"
    ) -> "Mapping[str, Any]":
        """Labels and their probabilities, of `found["probabilities"]` (cells, labels) and `found["labels"]`."""
        import numpy as np

        keys, values, label_names = settings.keys, found["probabilities"], list(found["labels"])
        labels, confidence = predictions(values, label_names, settings.unassigned_threshold)
        return {
            "obs": {keys.prediction: labels, keys.confidence: confidence},
            "obsm": {keys.probabilities: values},
            "facts": {"label_names": np.array(label_names, dtype=object)},
        }

    def _loaded(self, model: Any, processor: "CellProcessor | None", settings: AnnotateSettings) -> "LoadedModel":
        from ..opening.partners import with_partners
        from ..text.annotator import is_text_annotator, load_text_annotator
        from ..text.cell_text_annotator import is_cell_text_annotator, load_cell_text_annotator

        options = {"device": settings.device, "dtype": settings.dtype, "revision": settings.revision}
        if settings.labels is not None:
            from .running.descriptions import load_described

            return load_described(model, settings.labels, processor, **options)
        if is_cell_text_annotator(model, settings.revision):
            loaded = load_cell_text_annotator(model, **options)
        elif is_text_annotator(model, settings.revision):
            loaded = load_text_annotator(model, **options)
        else:
            return super().load(model, processor, settings)
        return loaded if settings.partners is False else with_partners(loaded)


ANNOTATE = AnnotateVerb(
    name="annotate",
    auto_class="AutoModelForSequenceClassification",
    settings=AnnotateSettings,
    writes=("obs", "obsm"),
    by_shards=True,
    run=Annotation,
    usage='cells = sclm_hf.annotate(cells, "{model}")\ncells.obs[["sclm_prediction", "sclm_confidence"]]',
)


@documented_by(ANNOTATE)
def annotate(
    adata: "AnnData",
    model: Any,
    processor: "CellProcessor | None" = None,
    *,
    copy: bool = True,
    **settings: Any,
) -> "AnnData":
    """Add the labels that a fine-tuned `model` predicts for the cells of `adata`.

    Args:
        adata: cells with raw counts.
        model: folder or repository id of a checkpoint with a classification head, or of an adapter; or a loaded model;
            with `labels` a dual encoder of cells and text.
        processor: the processor; by default the one saved with the model.
        **settings: the fields of [`AnnotateSettings`].
        copy: add to a copy in memory; False adds to `adata` itself (but not to the file of a backed one).

    Returns:
        The AnnData with the following, under these names or those derived from `key_added`:

        - `obs["sclm_prediction"]`: the labels, or the groups that `level` and `evidence` ask for, categorical;
        - `obs["sclm_confidence"]`: the probability of the label, that of a group being the sum over its labels;
        - `obsm["sclm_probabilities"]`: (n_cells, n_labels) float32, whose columns stand in the order of
          `uns["sclm_hf"]["sclm_prediction"]["label_names"]`;
        - `uns["sclm_hf"]["sclm_prediction"]`: also model, revision, versions, settings and coverage of the genes.

    Raises:
        CheckpointError: the model has no trained classification head, or cannot be read.
        ConfigurationError: the threshold is not between 0 and 1; or groups of labels are asked for that nothing tells.
        GeneCoverageError: the model knows too few of the genes.
        ExpressionError: the data are not what the model's encoding expects.
    """
    return ANNOTATE.add_to(adata, model, processor, settings, copy=copy)


def predictions(
    probabilities: "np.ndarray", label_names: list[str], unassigned_threshold: float
) -> "tuple[Categorical, np.ndarray]":
    """The label of each cell (`"unassigned"` where none is probable enough) and its probability.

    Args:
        probabilities: (n_cells, n_labels).
        label_names: names of the columns.
        unassigned_threshold: as for [`annotate`].
    """
    codes = probabilities.argmax(axis=1)
    return categorical(codes, probabilities.max(axis=1), label_names, unassigned_threshold)


def categorical(
    codes: "np.ndarray", confidence: "np.ndarray", names: list[str], threshold: float
) -> "tuple[Categorical, np.ndarray]":
    """The names of cells, `"unassigned"` where their confidence is below a threshold; and the confidence.

    Args:
        codes: (n_cells,) positions in `names`.
        confidence: (n_cells,).
        names: the names.
        threshold: the threshold.
    """
    import numpy as np

    pandas = require("pandas", extra="anndata")
    all_names = np.array([*names, UNASSIGNED], dtype=object)
    codes = np.where(confidence < threshold, len(names), codes)
    categories = list(dict.fromkeys([*names, *([UNASSIGNED] if threshold > 0 else [])]))
    return pandas.Categorical(all_names[codes], categories=categories), confidence
