"""`integrate`: one embedding for the cells of several batches."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigurationError
from .embed import Embedding
from .evaluate import SEEN
from .running.cell_run import Results
from .running.settings import AddingSettings, setting
from .running.verb import Verb, documented_by

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from anndata import AnnData

    from ..opening.loading import LoadedModel
    from ..tokenization.processing_cell import CellProcessor
    from .files.pieces import Pieces


@dataclass(frozen=True, kw_only=True)
class IntegrateSettings(AddingSettings):
    """Settings of [`integrate`].

    Raises:
        ConfigurationError: a value is out of range.
    """

    batch_key: str | None = setting(None, "column of `obs` with the batches to integrate; it must be named.")
    mode: Literal["zero_shot", "fine_tune"] = setting(
        "zero_shot",
        "`zero_shot`: the embedding that the model gives as it is; `fine_tune`: trained on these cells, with scGPT's "
        "losses for integration, until biology is being lost.",
    )
    label_key: str | None = setting(
        None,
        "column of `obs` with labels, such as cell types, some of which may be missing: they score, and with "
        "`fine_tune` they teach.",
    )
    harmony: bool = setting(
        False, "correct the embedding with Harmony (`pip install 'sclm_hf[integration]'`), whatever the mode."
    )
    head: Literal["lora", "full"] = setting(
        "lora", "what `fine_tune` trains of the model: `lora`, or `full`, all of it."
    )
    n_steps: int = setting(
        300, "most steps of `fine_tune`; ten times in a run, cells held out are looked at.", least=1
    )
    train_batch_size: int = setting(64, "cells in a step of `fine_tune`; of CellPLM, most cells of a sample.", least=2)
    learning_rate: float = setting(3e-3, "peak learning rate of `fine_tune`.", least=1e-9)
    expression_weight: float = setting(
        1.0, "weight of the error of expression predicted from the embedding and the batch (GEPC).", least=0
    )
    adversary_weight: float = setting(
        0.1, "weight of the reversed loss of batches told from the embedding; as published 1.", least=0
    )
    similarity_weight: float = setting(1.0, "weight of the elastic cell similarity (ECS); as published 10.", least=0)
    similarity_threshold: float = setting(0.8, "its threshold, a cosine.", least=0, most=1)
    dsbn: bool = setting(
        False,
        "give each batch a normalisation of its own in the encoder (DSBN), as published, where the model has a place "
        "for it (scGPT); with `head` full. To embed with the saved model then takes `batch_key`.",
    )
    label_weight: float = setting(1.0, "weight of the loss of labels told from the embedding.", least=0)
    most_lost: float = setting(
        0.05,
        "`fine_tune` stops when the purity of labels (without them, of the clusters of each batch) among the nearest "
        "cells is so much lower than at first, on cells held out.",
        least=0,
        most=1,
    )
    output_model: "str | Path | None" = setting(
        None, "folder to save the fine-tuned model in, where a run that was stopped goes on.", recorded=False
    )
    key_added: str | None = setting(
        None,
        "name of the embedding in `obsm`; by default `X_<family>_integrated`, for example `X_scgpt_integrated`.",
        flag="--key",
        recorded=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.batch_key:
            raise ConfigurationError("Name with `batch_key` (`--batch-key`) the column of `obs` with the batches.")
        if self.mode not in ("zero_shot", "fine_tune"):
            raise ConfigurationError(f"`mode` (`--mode`) is 'zero_shot' or 'fine_tune', got {self.mode!r}.")
        if self.head not in ("lora", "full"):
            raise ConfigurationError(f"`head` (`--head`) is 'lora' or 'full', got {self.head!r}.")

    def key(self, family: str) -> str:
        """Name of the embedding in `obsm`, and of its record."""
        return self.key_added or f"X_{family}_integrated"

    def columns(self) -> tuple[str, ...]:
        """Names of the columns that `obs` will get."""
        return (SEEN,) if self.mode == "fine_tune" and self.label_key else ()

    def batch_key_for(self, loaded: "LoadedModel") -> str | None:
        """The batches for models that take them; others need not know what is integrated."""
        takes = loaded.processor.context == "sample" or getattr(loaded.model.config, "needs_batch_labels", False)
        return self.batch_key if takes else None


class Integration(Embedding):
    """An embedding in which batches mix."""

    needs_all = True
    settings: IntegrateSettings  # type: ignore[assignment]

    def __init__(self, *run: Any) -> None:
        from ..evaluation.integration.harmony import check_harmony
        from ..sources.survey import refuse_alike
        from .integration.batches import FEWEST_CELLS, read_batches, read_labels

        super().__init__(*run)
        source, label_key = self.cells.source, self.settings.label_key
        trains = self.settings.mode == "fine_tune"
        self.batches = read_batches(source, self.settings.batch_key, FEWEST_CELLS if trains else 1)
        self.labels = read_labels(source, label_key) if label_key else None
        refuse_alike(source)
        if self.settings.harmony:
            check_harmony(source.n_cells)
        if trains:
            self._check_training()
        self._training: dict[str, Any] = {}
        self._taught: np.ndarray | None = None

    def _check_training(self) -> None:
        """Raise if the model cannot be trained."""
        from ..adapters.lora import lora_config
        from ..opening.kinds import is_adapted

        if is_adapted(self.loaded.model):
            raise ConfigurationError(
                f"`{self.loaded.name}` is an adapter, and `mode='fine_tune'` (`--mode fine_tune`) starts from a whole "
                "model: give the folder of the merged model, which training writes around `adapter/`."
            )
        if self.settings.dsbn and not (self.settings.head == "full" and hasattr(self.config, "domain_norm")):
            raise ConfigurationError(
                "`dsbn` (`--dsbn`) is for models with a place for it, such as scGPT, of which all is trained: say "
                "`head='full'` (`--head full`), or leave it out."
            )
        if self.settings.dsbn and self.loaded.name == "in memory":
            raise ConfigurationError(
                "With `dsbn` the model is opened anew, and this one was never saved: save it first."
            )
        if self.settings.head == "full":
            return
        if self.loaded.name == "in memory":
            raise ConfigurationError(
                "A LoRA names the folder of its base, and this model was never saved: save and load it first, or "
                "train all of it, `head='full'` (`--head full`)."
            )
        lora_config(self.loaded.model)

    def all_values(self, pieces: "Pieces | None" = None) -> "np.ndarray":
        """(n_cells, size) embeddings of all cells before Harmony."""
        from .clustering.sweep import check_embedding

        self._as_it_is = super().all_values(pieces)
        check_embedding(self._as_it_is, "The embedding")
        return self._as_it_is if self.settings.mode == "zero_shot" else self._fine_tuned()

    def _fine_tuned(self) -> "np.ndarray":
        """(n_cells, size) embeddings by the fine-tuned model; those of the model as it was where they are better."""
        from .integration.fine_tuning import fine_tuned

        found = fine_tuned(self.loaded, self.cells, self.batches, self.labels, self.settings)
        trained, self._training, self._taught = found
        if trained is None:
            return self._as_it_is
        self.loaded = trained
        if self.settings.dsbn:
            self.cells = replace(self.cells, batch_labels=self.batches.numbers)
        return super().all_values()

    def results(self, cells: "slice | np.ndarray", values: "np.ndarray") -> Results:
        """The embedding."""
        from ..evaluation.integration.harmony import harmony

        if self.settings.harmony:
            values = harmony(values, self.batches.values, seed=self.settings.seed)
        self._integrated = values
        added = super().results(cells, values)
        return Results(obs=dict.fromkeys(self.settings.columns(), self._taught), obsm=added.obsm)

    def facts(self, file: "Path | None") -> dict[str, Any]:
        """The batches, what the nearest cells tell of them before and after, and how similar the embeddings are."""
        import numpy as np

        sizes = np.bincount(self.batches.numbers)
        before, after = (self._scores(embedding) for embedding in (self._as_it_is, self._integrated))
        return super().facts(file) | {
            "batches": {"name": np.array(self.batches.names, object), "n_cells": sizes},
            "scores": {"zero_shot": before, "integrated": after},
            **({"training": self._training} if self._training else {}),
            "teaches_labels": self._taught is not None and bool(self._taught.any()),
        }

    def _scores(self, embedding: "np.ndarray") -> dict[str, float]:
        import numpy as np

        from ..evaluation.collapse import MOST_CELLS
        from ..evaluation.integration.neighbours import batch_mixing, label_purity

        some = np.sort(np.argsort(self.cells.cell_ids, kind="stable")[:MOST_CELLS])
        batches, labels = self.batches.numbers[some], None if self.labels is None else self.labels.numbers[some]
        scores = {"batch_mixing": batch_mixing(embedding[some], batches, labels)}
        return scores if labels is None else scores | {"label_purity": label_purity(embedding[some], labels)}


INTEGRATE = Verb(
    name="integrate",
    auto_class="AutoModel",
    settings=IntegrateSettings,
    writes=("obs", "obsm"),
    run=Integration,
    usage='cells = sclm_hf.integrate(cells, "{model}", batch_key="batch")\ncells.obsm["X_{family}_integrated"]',
)


@documented_by(INTEGRATE)
def integrate(
    adata: "AnnData",
    model: Any,
    processor: "CellProcessor | None" = None,
    *,
    copy: bool = True,
    **settings: Any,
) -> "AnnData":
    """Add an embedding in which cells of several batches lie together by what they are.

    Score it beside simple methods with [`evaluate`](sclm_hf.evaluate), `embedding="X_scgpt_integrated"`: principal
    components with Harmony are hard to beat. `fine_tune` trains a LoRA, or all of the model, on four fifths of the
    cells, with the losses that scGPT has for integration, whatever the family: expression predicted from the embedding
    and the batch, a classifier of batches behind a gradient reversal, elastic cell similarity, and labels where there
    are some. Of the cells held out, the nearest ones choose the step that is kept.

    Args:
        adata: cells with raw counts.
        model: folder or repository id of a checkpoint or an adapter; or a loaded model.
        processor: the processor; by default the one saved with the model.
        **settings: the fields of [`IntegrateSettings`].
        copy: add to a copy in memory; False adds to `adata` itself (but not to the file of a backed one).

    Returns:
        The AnnData with

        - `obsm["X_<family>_integrated"]`: (n_cells, cell_embedding_size) float32;
        - `uns["sclm_hf"]["X_<family>_integrated"]`: the `batches` with their sizes; `scores` of the 10 nearest cells,
          over at most 1,000 cells, before (`zero_shot`) and after (`integrated`): `batch_mixing` (1 = as by chance)
          and, with labels, `label_purity` (1 = all have the label of the cell); with `fine_tune` also `training`, both
          on cells held out at each evaluation, the step that was kept (0 = the model as it was), whether biology was
          being lost, and by how much the score, 0.4 and 0.6 of these two, rose (`gain`) with its `standard_error`;
          and how it was made;
        - `obs["sclm_seen_in_training"]`, with `fine_tune` and labels: (n_cells,) bool, whose labels taught.

    Warns:
        SclmWarning: training stopped because biology was being lost; or made the embedding no better on cells held
            out, and that of the model as it was is returned; or better by less than two standard errors.

    Raises:
        ConfigurationError: there is one batch only, all labels are the same, or there are too few cells.
        CorpusError: `obs` lacks a column, or a cell has no batch.
        ExpressionError: the embedding is the same for all cells, or the data are not what is expected.
        MissingDependencyError: harmonypy is not installed.
        Others as for [`embed`](sclm_hf.embed).
    """
    return INTEGRATE.add_to(adata, model, processor, settings, copy=copy)
