"""`multimodal`: RNA with proteins or chromatin of the same cells."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigurationError
from .running.cell_run import CellRun, Results
from .running.settings import AddingSettings, setting
from .running.verb import Verb, documented_by

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from mudata import MuData

    from ..opening.loading import LoadedModel
    from ..tokenization.processing_cell import CellProcessor
    from .multimodality.head import Head
    from .multimodality.modality import Modality

MULTIMODAL_KEY = "sclm_multimodal"


@dataclass(frozen=True, kw_only=True)
class MultimodalSettings(AddingSettings):
    """Settings of [`multimodal`].

    Raises:
        ConfigurationError: a value is out of range.
    """

    other: "str | Path | AnnData | None" = setting(
        None,
        "the other modality of the same cells, with raw counts in `X`: an AnnData or an `.h5ad` file. Cells are "
        "matched by name. None applies a saved `head` to cells with RNA alone.",
        flag=None,
        recorded=False,
    )
    kind: str | None = setting(
        None,
        "what the other modality is: `protein`, normalised to centred log ratios; or `atac`, peaks, binarised and "
        "weighted by TF-IDF. To be said where there is one.",
    )
    head: "str | Path | None" = setting(
        None, "folder to save the head to; without another modality, the one to read it from.", recorded=False
    )
    n_features: int = setting(1000, "how many of the most variable peaks to predict; proteins are all taken.", least=2)
    n_components: int = setting(20, "components of each modality in the joint embedding, and of the latter.", least=2)
    n_folds: int = setting(5, "folds of cells, each of which is predicted from the others.", least=2)
    label_key: str | None = setting(
        None, "column of `obs` with labels, to see how many neighbours share them in each embedding."
    )
    rna_key: str = setting("rna", "name of RNA in a MuData.", recorded=False)
    other_key: str | None = setting(
        None,
        "name of the other modality in a MuData; by default `prot` or `atac`, as `kind` says.",
        recorded=False,
    )
    key_added: str | None = setting(
        None, f"start of the names in `obsm`; default `{MULTIMODAL_KEY}`.", flag="--key", recorded=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in (None, "protein", "atac"):
            raise self._unknown_kind()

    def _unknown_kind(self) -> ConfigurationError:
        return ConfigurationError(
            f"Say with `kind` (`--kind`) what the other modality is, 'protein' or 'atac', got {self.kind!r}."
        )

    def check_named(self) -> None:
        """Refuse what is not enough for a model of RNA.

        Raises:
            ConfigurationError: there is neither another modality nor a head, or it is not said what the first is.
        """
        if self.other is None and self.head is None:
            raise ConfigurationError(
                "Give the other modality as `other` (the file OTHER), or a saved `head` (`--head`) to predict it."
            )
        if self.kind is None and self.other is not None:
            raise self._unknown_kind()

    def key(self, family: str) -> str:
        """Name of the record, and start of the names in `obsm`."""
        return self.key_added or MULTIMODAL_KEY

    @cached_property
    def modality(self) -> "Modality | None":
        """The other modality, read and normalised."""
        from .multimodality.modality import read_modality

        return None if self.other is None else read_modality(self.other, self.kind, self.n_features)

    @cached_property
    def saved(self) -> "Head | None":
        """The head that is applied, where there is no other modality."""
        from .multimodality.head import Head

        return Head.read(Path(self.head)) if self.other is None else None

    def to_record(self) -> dict[str, Any]:
        """What the results depend on, by name."""
        from .files.fingerprint import hash_of

        self.check_named()
        if self.modality is not None:
            return super().to_record() | {"other": self.modality.hash}
        return super().to_record() | {"head": hash_of([self.saved.facts, self.saved.ridge.weights.tolist()])}


class Multimodal(CellRun[MultimodalSettings]):
    """Embeddings of cells, and what they say of another modality."""

    settings: MultimodalSettings
    needs_all = True

    def __init__(self, *run: Any) -> None:
        super().__init__(*run)
        self._facts: dict[str, Any] = {}
        self._values = self._labels = None
        if self.settings.modality is None:
            self._check_model()
            self.settings.saved.check_genes(self.cells.source.genes()[0])
        else:
            self._prepare_pairs()

    def _prepare_pairs(self) -> None:
        """Match cells and check what would fail after the work."""
        from ..sources.survey import refuse_alike
        from .integration.batches import read_labels

        settings, names = self.settings, self.cells.names
        self._values = settings.modality.of(names)
        if len(names) < 2 * settings.n_folds:
            raise ConfigurationError(
                f"{len(names):,} cells are too few for {settings.n_folds} folds of at least 2: lower `n_folds` "
                "(`--n-folds`), or give more cells."
            )
        refuse_alike(self.cells.source)
        head = None if settings.head is None else Path(settings.head)
        if head is not None and head.exists() and (not head.is_dir() or any(head.iterdir())):
            raise ConfigurationError(f"`{head}` exists: name another folder with `head` (`--head`), or remove it.")
        if settings.label_key is not None:
            self._labels = read_labels(self.cells.source, settings.label_key).numbers

    def _check_model(self) -> None:
        """Raise if the head was fitted on another model."""
        from .files.fingerprint import loaded_hash

        head = self.settings.saved
        if head.facts.get("model") != loaded_hash(self.loaded):
            raise CheckpointError(
                f"The head `{self.settings.head}` was fitted on another model, `{head.facts.get('model_name')}`: name "
                "that one with `model` (`--model`)."
            )
        if not head.reads(self.config.cell_embedding_size):
            raise CheckpointError(
                f"The weights of the head `{self.settings.head}` are not for the embeddings of its model: fit it anew."
            )

    def results(self, cells: "slice | np.ndarray", values: "np.ndarray") -> Results:
        """The predicted modality; for pairs that of held-out cells, and the joint embedding."""
        import numpy as np

        from ..sources.survey import row_blocks

        embedding = np.asarray(values, np.float64)
        if self.settings.modality is not None:
            return self._results_of_pairs(embedding)
        head, source = self.settings.saved, self.cells.source
        self._facts = {name: head.facts[name] for name in ("kind", "method")}
        self._facts["features"] = np.array(head.facts["features"], object)
        blocks, genes = row_blocks(len(embedding)), source.genes()[0]
        parts = [head.predict(source.read(rows), genes, embedding[rows]) for rows in blocks]
        return Results(obsm={f"{self.key}_predicted": np.concatenate(parts).astype(np.float32)})

    def _results_of_pairs(self, embedding: "np.ndarray") -> Results:
        import numpy as np

        from .multimodality.joint import joint_embedding, neighbour_agreement
        from .multimodality.predictors import folds_of, held_out_predictions
        from .multimodality.scores import best_ridge, score_predictions

        settings, modality = self.settings, self.settings.modality
        counts = self.cells.source.read(np.arange(len(embedding)))
        folds = folds_of(self.cells.names, settings.n_folds, settings.seed)
        predictions = held_out_predictions(counts, embedding, self._values, folds, settings.seed)
        scores, per_feature = score_predictions(predictions, self._values, folds, settings.seed)
        method = best_ridge(scores)
        embeddings = joint_embedding(embedding, self._values, settings.n_components, settings.seed)
        seen, has_manifest = self._seen()
        self._facts = {
            "kind": modality.kind,
            "features": modality.features,
            "method": method,
            "scores": scores,
            "per_feature": per_feature,
            "n_seen": seen,
            "has_manifest": has_manifest,
        }
        if self._labels is not None:
            self._facts["neighbour_agreement"] = neighbour_agreement(embeddings, self._labels)
        if settings.head is not None:
            self._save_head(method, counts, embedding)
        predicted = predictions[method].astype(np.float32)
        return Results(obsm={f"{self.key}_predicted": predicted, f"{self.key}_joint": embeddings["joint"]})

    def _seen(self) -> tuple[int, bool]:
        """How many cells the training manifest of the model names, and whether there is one."""
        from .running.seen import seen_by

        name = None if self.loaded.name == "in memory" else self.loaded.name
        seen = seen_by(name, self.loaded.revision, self.cells.source, self.cells.cell_ids)
        return int((seen.trained | seen.chose).sum()), seen.has_manifest

    def _save_head(self, method: str, counts: Any, embedding: "np.ndarray") -> None:
        """Fit the head on all pairs, and save it."""
        from .files.fingerprint import loaded_hash
        from .multimodality.head import Head
        from .multimodality.predictors import fit_ridge

        facts = {
            "method": method,
            "kind": self.settings.kind,
            "features": self.settings.modality.features.tolist(),
            "model": loaded_hash(self.loaded),
            "model_name": Path(self.loaded.name).name,
            "n_cells": len(embedding),
        }
        genes, seed = self.cells.source.genes()[0], self.settings.seed
        ridge, projection = fit_ridge(method, counts, genes, embedding, self._values, seed)
        Head(ridge, facts, projection).save(Path(self.settings.head))

    def facts(self, file: "Path | None") -> dict[str, Any]:
        """The scores and the names of the features."""
        return self._facts


class MultimodalVerb(Verb):
    """The verb, which reads the other modality, or the head, before the model."""

    def load(self, model: Any, processor: "CellProcessor | None", settings: MultimodalSettings) -> "LoadedModel":
        """Load the model."""
        settings.to_record()
        return super().load(model, processor, settings)


MULTIMODAL = MultimodalVerb(
    name="multimodal",
    auto_class="AutoModel",
    settings=MultimodalSettings,
    writes=("obsm",),
    run=Multimodal,
    usage='cells = sclm_hf.multimodal(cells, proteins, "{model}", kind="protein", head="head")\n'
    'cells.obsm["sclm_multimodal_joint"]',
)


@documented_by(MULTIMODAL)
def multimodal(
    adata: "AnnData | MuData",
    other: "str | Path | AnnData | None" = None,
    model: Any = None,
    processor: "CellProcessor | None" = None,
    *,
    copy: bool = True,
    **settings: Any,
) -> "AnnData | MuData":
    """Predict proteins or open chromatin from RNA, and join both in one embedding.

    The prediction is a ridge regression on the embeddings of the frozen model, on principal components of RNA, or on
    both, with the penalty that leave-one-out errors choose for each feature. All three are scored on held-out cells
    beside the mean and nearest neighbours. The one with the highest correlation there is taken, and kept as the head:
    often that of the components, which are hard to beat, and does not need the model. Read the scores before you rely
    on it.

    A task-specific model that was trained on two modalities (`sclm-hf models` names those that serve `multimodal`)
    does instead what it was trained for: its joint embedding and its predictions have the same names, and the record
    holds no scores, as no cells are held out.

    Args:
        adata: cells with raw counts of RNA; or a MuData of both modalities, to whose RNA the results are added.
        model: folder or repository id of a checkpoint or an adapter; or a loaded model.
        processor: the processor; by default the one saved with the model.
        **settings: the fields of [`MultimodalSettings`].
        copy: add to a copy in memory; False adds to `adata` itself (but not to the file of a backed one).

    Returns:
        The AnnData, or the MuData, whose AnnData of RNA then has these, with

        - `obsm["sclm_multimodal_predicted"]`: (n_cells, n_features) float32, centred log ratios or log TF-IDF; for
          paired cells each is predicted by the method taken, fitted without it;
        - `obsm["sclm_multimodal_joint"]`: (n_cells, components) float32, of paired cells;
        - `uns["sclm_hf"]["sclm_multimodal"]`: `features`, their names; `method`, the one taken; `scores`, columns
          `method`, `pearson` (within folds) and `rmse` (means over features) and `gain`, the `pearson` above that of
          `pca`, with `_low` and `_high`, 95 % intervals over cells; `per_feature`, the same per feature;
          `neighbour_agreement` of `rna`, `other` and `joint`, the share of neighbours with the same label; `n_seen`,
          cells that the model was trained on or chosen by; and model, versions, settings and coverage of the genes.

    Raises:
        ConfigurationError: names of cells are doubled or differ, there are fewer cells than folds need, or settings
            do not fit.
        ExpressionError: the other modality has fewer than 2 features, values that are no raw counts, a protein or a
            cell without counts; or RNA is not what the model's encoding expects.
        CheckpointError: the head was fitted on another model, or it or the model is damaged.
        CorpusError: a file cannot be read, or there is no such column of labels.
        GeneCoverageError: the model knows too few of the genes, or the head reads genes that the data lack.
    """
    if model is None:
        raise ConfigurationError("Name a `model` (`--model`) that embeds RNA.")
    from ..opening.specialists import is_specialist

    if is_specialist(model, settings.get("revision")):
        from .multimodality.specialists import add_by_specialist

        return add_by_specialist(MULTIMODAL, adata, other, model, processor, settings, copy=copy)
    if not hasattr(adata, "mod"):
        return MULTIMODAL.add_to(adata, model, processor, {"other": other, **settings}, copy=copy)
    from .multimodality.modality import in_mudata

    chosen = MULTIMODAL.choose({"other": adata, **settings})
    chosen.check_named()
    rna, given = in_mudata(adata, other, chosen, copy=copy)
    result = adata.copy() if copy else adata
    MULTIMODAL.add_to(result.mod[rna], model, processor, {**settings, "other": given}, copy=False)
    return result
