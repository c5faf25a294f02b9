"""`embed`: one vector per cell."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..logging import warn
from .running.cell_run import CellRun, Results
from .running.settings import AddingSettings, setting
from .running.verb import Verb, documented_by

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from anndata import AnnData

    from ..evaluation.collapse import Collapse
    from ..tokenization.processing_cell import CellProcessor


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(AddingSettings):
    """Settings of [`embed`]."""

    key_added: str | None = setting(
        None,
        "name of the embedding in `obsm`; by default `X_<family>`, for example `X_scgpt`.",
        flag="--key",
        recorded=False,
    )

    def key(self, family: str) -> str:
        """Name of the embedding in `obsm`, and of its record."""
        return self.key_added or f"X_{family}"


class Embedding(CellRun[EmbedSettings]):
    """Embeddings of cells, and how similar they are."""

    def __init__(self, *run: Any) -> None:
        from ..evaluation.collapse import CollapseMeter

        super().__init__(*run)
        self._meter = CollapseMeter(self.cells.cell_ids, self.cells.part)

    def results(self, cells: "slice | np.ndarray", values: "np.ndarray") -> Results:
        """The embeddings."""
        self._meter.add(cells, values)
        return Results(obsm={self.key: values})

    def recorded_settings(self) -> dict[str, Any]:
        """The settings, and whether the embeddings are normalised."""
        return {**super().recorded_settings(), "normalized": self.config.normalize_cell_embedding}

    def facts(self, file: "Path | None") -> dict[str, Any]:
        """How similar the embeddings are; warns if they look like those of a collapsed model."""
        collapse = self._meter.measure()
        if collapse.is_likely:
            _warn_of_collapse(collapse, f'obsm["{self.key}"]' if file is None else str(file))
        return {"collapse": collapse.to_dict()}

    @classmethod
    def join(cls, key: str, records: "Sequence[Mapping[str, Any]]", names: "np.ndarray", file: Any) -> dict[str, Any]:
        """How similar all embeddings are."""
        from ..evaluation.collapse import CollapseMeter
        from ..sources.survey import row_blocks
        from ..tokenization.encodings.keys import hash_names

        meter, embeddings = CollapseMeter(hash_names(names)), file["obsm"][key]
        for rows in row_blocks(len(names)):
            meter.add(rows, embeddings[rows[0] : rows[-1] + 1])
        return {"collapse": meter.measure().to_dict()}


class EmbedVerb(Verb):
    """The verb, which also says how similar the embeddings of a task-specific model are."""

    def of_specialist(
        self, found: "Mapping[str, Any]", settings: EmbedSettings, family: str, names: "Sequence[str]"
    ) -> "Mapping[str, Any]":
        """The embeddings, and how similar they are; warns if they look like those of a collapsed model."""
        from ..evaluation.collapse import CollapseMeter
        from ..tokenization.encodings.keys import hash_names

        key, meter = settings.key(family), CollapseMeter(hash_names(names))
        meter.add(slice(None), found["obsm"][key])
        collapse = meter.measure()
        if collapse.is_likely:
            _warn_of_collapse(collapse, f'obsm["{key}"]')
        return {**found, "facts": {**found.get("facts", {}), "collapse": collapse.to_dict()}}


EMBED = EmbedVerb(
    name="embed",
    auto_class="AutoModel",
    settings=EmbedSettings,
    writes=("obsm",),
    by_shards=True,
    run=Embedding,
    usage='cells = sclm_hf.embed(cells, "{model}")\ncells.obsm["X_{family}"]',
)


@documented_by(EMBED)
def embed(
    adata: "AnnData",
    model: Any,
    processor: "CellProcessor | None" = None,
    *,
    copy: bool = True,
    **settings: Any,
) -> "AnnData":
    """Add the embeddings that `model` gives to the cells of `adata`.

    A cell's vector does not depend on the batch size, on the order of the cells or on which others are there: to 1e-5
    in float32. What is random about a cell (which genes are kept of a cell that is too long, ties between bins) is
    drawn from its name in `obs_names` and `seed`. CellPLM is different, because its tokens are cells: a vector depends
    on the other cells of the same sample, which the model sees together, but on nothing else.

    Args:
        adata: cells with raw counts. A backed AnnData (`anndata.read_h5ad(path, backed="r")`) is read in blocks with
            `copy=False`, if its matrix is stored by rows; with `copy=True` it is loaded into memory first.
        model: folder or repository id of a checkpoint or an adapter; or a loaded model.
        processor: the processor; by default the one saved with the model.
        **settings: the fields of [`EmbedSettings`].
        copy: add to a copy in memory; False adds to `adata` itself (but not to the file of a backed one).

    Returns:
        The AnnData with

        - `obsm[key_added]`: (n_cells, cell_embedding_size) float32, divided by its L2 norm where
          `config.normalize_cell_embedding` says so, as scGPT's published procedure does (Cui et al., Nature Methods
          2024);
        - `uns["sclm_hf"][key_added]`: model, revision, versions, settings, coverage of the genes, and under
          `"collapse"` how alike the embeddings are (see `sclm_hf.evaluation.collapse.Collapse`).

    Warns:
        SclmWarning: the embeddings of 50 or more cells are as similar as those of a collapsed model: mean cosine above
            0.99, or more than 70 % of the variance along one direction.

    Raises:
        CheckpointError: the model cannot be read or is incomplete.
        ConfigurationError: settings do not fit the model or the machine, nothing can be added to `adata`, or it is
            not an AnnData.
        GeneCoverageError: the model knows too few of the genes.
        ExpressionError: the data are not what the model's encoding expects.
    """
    return EMBED.add_to(adata, model, processor, settings, copy=copy)


def _warn_of_collapse(collapse: "Collapse", where: str) -> None:
    warn(
        f"The embeddings in `{where}` hardly tell cells apart ({collapse}): so do those of a model that collapsed or "
        "was never trained. Compare them with a baseline, such as principal components of log-normalised counts, "
        "before you rely on them."
    )
