"""`search`: how well texts describe each cell, and which cells each text describes best."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from .running.cell_run import CellRun, Results
from .running.settings import AddingSettings, setting
from .running.verb import Verb, documented_by

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import torch
    from anndata import AnnData
    from transformers.utils import ModelOutput

    from ..opening.loading import LoadedModel

SEARCH_KEY = "sclm_search"


@dataclass(frozen=True, kw_only=True)
class SearchSettings(AddingSettings):
    """Settings of [`search`]."""

    queries: "str | Sequence[str] | None" = setting(
        None, "what is looked for: a text, or several; in the command separated by `|`."
    )
    key_added: str | None = setting(
        None, f"name of the similarities in `obsm`; default `{SEARCH_KEY}`.", flag="--key", recorded=False
    )
    top: int = setting(10, "how many cells are listed for each text, the most similar first.", least=1)
    by: str | None = setting(
        None, "column of `obs`: the texts are also ranked for each of its groups, by the mean direction of its cells."
    )

    def key(self, family: str) -> str:
        """Name of the similarities in `obsm`, and of their record."""
        return self.key_added or SEARCH_KEY

    @property
    def texts(self) -> list[str]:
        """The queries one by one."""
        given = self.queries.split("|") if isinstance(self.queries, str) else list(self.queries or ())
        texts = [text.strip() for text in given]
        if not texts or not all(texts):
            raise ConfigurationError("Say what to look for: `queries` (`--queries`) must be texts, none empty.")
        return texts


class Search(CellRun[SearchSettings]):
    """Similarities of cells and texts."""

    needs_all = True

    def __init__(self, *run: Any) -> None:
        from ..sources.categories import labelled_column

        super().__init__(*run)
        by = self.settings.by
        self._groups = None if by is None else labelled_column(self.cells.source, by)
        self._best: dict[str, Any] = {}

    def read(self, output: "ModelOutput") -> "torch.Tensor":
        """(batch, projection_dim) directions of cells."""
        return output["cell_embedding"]

    def results(self, cells: "slice | np.ndarray", values: "np.ndarray") -> Results:
        """The cosines, (cells, queries)."""
        import numpy as np

        model: Any = self.loaded.model
        texts = model.directions.float().cpu().numpy()
        similarities = values @ texts.T
        order = np.argsort(-similarities, axis=0, kind="stable")[: self.settings.top]
        self._best = {"best_cells": np.asarray(self.cells.names, dtype=object)[order.T]}
        if self._groups is not None:
            self._best |= _by_group(self._groups, values, texts)
        return Results(obsm={self.key: similarities})

    def facts(self, file: "Path | None") -> dict[str, Any]:
        """The queries in the order of the columns, (queries, top) names of the best cells, and what groups are."""
        import numpy as np

        return {"queries": np.array(self.settings.texts, dtype=object), **self._best}


def _by_group(column: Any, values: "np.ndarray", texts: "np.ndarray") -> dict[str, Any]:
    """The cosine of the mean direction of each group with each text."""
    import numpy as np

    from ..sources.categories import numbers_of, values_of

    names = sorted(values_of(column))
    numbers = numbers_of(column, {name: number for number, name in enumerate(names)})
    means = np.stack([values[numbers == number].mean(axis=0) for number in range(len(names))])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return {"groups": np.array(names, dtype=object), "group_similarities": means @ texts.T}


class SearchVerb(Verb):
    """The verb, whose model is a dual encoder that is told the queries."""

    def load(self, model: Any, processor: Any, settings: SearchSettings) -> "LoadedModel":
        """Load the dual encoder, and encode the queries."""
        from .running.descriptions import load_queries

        return load_queries(
            model,
            settings.texts,
            processor,
            device=settings.device,
            dtype=settings.dtype,
            revision=settings.revision,
        )


SEARCH = SearchVerb(
    name="search",
    auto_class="AutoModel",
    settings=SearchSettings,
    writes=("obsm",),
    is_special=True,
    run=Search,
    usage='cells = sclm_hf.search(cells, "{model}", queries=["it makes antibodies"])\ncells.obsm["sclm_search"]',
)


@documented_by(SEARCH)
def search(
    adata: "AnnData",
    model: Any,
    processor: Any = None,
    *,
    copy: bool = True,
    **settings: Any,
) -> "AnnData":
    """Find the cells that texts describe, and the texts that describe cells.

    Args:
        adata: cells with raw counts.
        model: folder or repository of a dual encoder of cells and text; or a loaded one.
        processor: its processor, of cells and texts; by default the one saved with the model.
        **settings: the fields of [`SearchSettings`].
        copy: add to a copy in memory; False adds to `adata` itself (but not to the file of a backed one).

    Returns:
        The AnnData with

        - `obsm["sclm_search"]`: (n_cells, n_queries) float32 cosines of cells and texts;
        - `uns["sclm_hf"]["sclm_search"]`: the `queries` in the order of the columns, `best_cells` (n_queries, top)
          names of cells; with `by` also `groups` and `group_similarities` (n_groups, n_queries); and model, versions,
          settings and coverage of the genes.

    Raises:
        CheckpointError: the model cannot be read, or is no dual encoder.
        ConfigurationError: there is nothing to look for, or settings do not fit.
        GeneCoverageError: the model knows too few of the genes.
        ExpressionError: the data are not what the model's encoding expects.
    """
    return SEARCH.add_to(adata, model, processor, settings, copy=copy)
