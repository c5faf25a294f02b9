"""The verbs as tasks of `transformers.pipeline`.

>>> embed = pipeline("cell-embedding", model="path/to/checkpoint")  # doctest: +SKIP
>>> embed("cells.h5ad").shape  # doctest: +SKIP
(1200, 64)
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification, Pipeline

from ...errors import CheckpointError, ConfigurationError, require
from ...opening.kinds import inner_model
from ...registry import FAMILIES
from .. import get_function
from ..files.h5ad import read_h5ad

if TYPE_CHECKING:
    from anndata import AnnData


class CellPipeline(Pipeline):
    """A verb over cells: an AnnData, a data frame of counts with genes in columns, a path, or an iterable of these.

    Settings of the verb may be given when the pipeline is made, and with each call. `batch_size` is that of the verb.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False
    _pipeline_calls_generate = False
    verb = ""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        model_type = getattr(inner_model(self.model).config, "model_type", None)
        if model_type not in FAMILIES:
            raise ConfigurationError(f"`{self.task}` is for models of cells, and this one is a `{model_type}` model.")
        if random := getattr(inner_model(self.model), "random_modules", ()):
            raise CheckpointError(
                f"The checkpoint lacks {', '.join(f'`{name}`' for name in random)}, which `{self.task}` needs and "
                "which would be random: fine-tune it first, for example with `sclm-hf finetune`."
            )

    def __call__(self, cells: Any, **settings: Any) -> Any:
        """What the verb says of cells; of an iterable of them a list, or a generator where it has no length.

        Args:
            cells: see above.
            **settings: fields of the settings of the verb.
        """
        chosen = self._forward_params | settings
        if self._batch_size is not None:
            chosen = {"batch_size": self._batch_size} | chosen
        if not _is_many(cells):
            return self._answer(cells, chosen)
        answers = (self._answer(one, chosen) for one in cells)
        return list(answers) if isinstance(cells, (list, tuple)) else answers

    def _answer(self, cells: Any, settings: dict[str, Any]) -> Any:
        found = get_function(self.verb)(as_cells(cells), self.model, self.processor, **settings)
        return self.postprocess(found, settings)

    @abstractmethod
    def postprocess(self, found: "AnnData", settings: dict[str, Any]) -> Any:
        """What is given of the results of the verb."""

    def _sanitize_parameters(self, **settings: Any) -> tuple[dict, dict, dict]:
        return {}, settings, {}

    def preprocess(self, inputs: Any, **settings: Any) -> Any:
        """Nothing: the verb reads cells as they are."""
        return inputs

    def _forward(self, inputs: Any, **settings: Any) -> Any:
        return self._answer(inputs, settings)


class CellEmbeddingPipeline(CellPipeline):
    """(cells, size) float32 embeddings, by [`embed`](sclm_hf.tasks.embed.embed)."""

    verb = "embed"

    def postprocess(self, found: "AnnData", settings: dict[str, Any]) -> Any:
        return found.obsm[settings.get("key_added") or f"X_{inner_model(self.model).config.model_type}"]


class CellTypeAnnotationPipeline(CellPipeline):
    """A list with `cell`, `label` and `score` of each cell, by [`annotate`](sclm_hf.tasks.annotate.annotate)."""

    verb = "annotate"

    def postprocess(self, found: "AnnData", settings: dict[str, Any]) -> list[dict[str, Any]]:
        key = settings.get("key_added")
        label, score = (key, f"{key}_confidence") if key else ("sclm_prediction", "sclm_confidence")
        columns = zip(found.obs_names, found.obs[label], found.obs[score], strict=True)
        return [{"cell": str(cell), "label": str(name), "score": float(one)} for cell, name, one in columns]


class GeneImputationPipeline(CellPipeline):
    """An AnnData with the imputed expression as a layer, by [`impute`](sclm_hf.tasks.impute.impute)."""

    verb = "impute"

    def postprocess(self, found: "AnnData", settings: dict[str, Any]) -> "AnnData":
        return found


class PerturbationPredictionPipeline(CellPipeline):
    """An AnnData with a row per perturbed gene and what its deletion does, by [`perturb`](sclm_hf.tasks.perturb)."""

    verb = "perturb"

    def postprocess(self, found: "AnnData", settings: dict[str, Any]) -> "AnnData":
        return found


TASKS: dict[str, tuple[type[CellPipeline], type]] = {
    "cell-embedding": (CellEmbeddingPipeline, AutoModel),
    "cell-type-annotation": (CellTypeAnnotationPipeline, AutoModelForSequenceClassification),
    "gene-imputation": (GeneImputationPipeline, AutoModelForPreTraining),
    "perturbation-prediction": (PerturbationPredictionPipeline, AutoModel),
}
"""Task -> the class of its pipeline, and the Auto class that opens its model."""


def register_pipelines(pipelines: ModuleType) -> None:
    """Tell `transformers.pipelines` of our tasks, and have its own tasks name them where they meet our models."""
    registry = pipelines.PIPELINE_REGISTRY
    for task, (pipeline_class, auto_class) in TASKS.items():
        if task not in registry.supported_tasks:
            registry.register_pipeline(task, pipeline_class, pt_model=auto_class, type="multimodal")
    feature_extraction = pipelines.FeatureExtractionPipeline
    if not hasattr(feature_extraction.__init__, "names_our_tasks"):
        feature_extraction.__init__ = _naming_our_task(feature_extraction.__init__)


def _naming_our_task(make: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **settings: Any) -> None:
        model = settings.get("model", args[0] if args else None)
        if getattr(getattr(model, "config", None), "model_type", None) in FAMILIES:
            raise ConfigurationError(
                "`feature-extraction` reads texts, and this is a model of cells: make a pipeline for "
                "`cell-embedding`, which takes an AnnData or the path of an `.h5ad` file."
            )
        make(self, *args, **settings)

    __init__.names_our_tasks = True
    return __init__


def as_cells(cells: Any) -> "AnnData":
    """Cells as an AnnData.

    Args:
        cells: an AnnData; the path of an `.h5ad` file; or a data frame of raw counts, cells in rows, genes in columns.

    Raises:
        CorpusError: the file cannot be read.
    """
    if isinstance(cells, (str, Path)):
        return read_h5ad(cells)
    pandas = require("pandas", extra="anndata")
    if not isinstance(cells, pandas.DataFrame):
        return cells
    anndata = require("anndata", extra="anndata")
    named = {"obs": pandas.DataFrame(index=cells.index.astype(str)), "var": pandas.DataFrame(index=cells.columns)}
    return anndata.AnnData(cells.to_numpy("float32"), **named)


def _is_many(cells: Any) -> bool:
    """Whether these are several sets of cells."""
    is_one = isinstance(cells, (str, Path)) or hasattr(cells, "obs_names") or hasattr(cells, "columns")
    return not is_one and isinstance(cells, (Iterable, Iterator))
