"""`spatial`: domains of tissue, by embeddings that are averaged over neighbouring cells."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, require
from ..logging import warn
from .clustering.settings import SweepSettings
from .running.cell_run import CellRun, Results
from .running.settings import setting
from .running.verb import Verb, documented_by

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from anndata import AnnData

    from ..opening.loading import LoadedModel
    from ..sources.cell_source import CellSource
    from ..tokenization.processing_cell import CellProcessor
    from .clustering.sweep import Sweep
    from .files.pieces import Pieces
    from .tissue.neighbours import Tissue

DOMAIN_KEY = "sclm_domain"


@dataclass(frozen=True, kw_only=True)
class SpatialSettings(SweepSettings):
    """Settings of [`spatial`].

    Raises:
        ConfigurationError: a value is out of range, or resolutions are no numbers above 0.
    """

    neighbours: int = setting(6, "nearest cells or spots of the same slice that each is averaged with.", least=1)
    neighbourhood: int | None = setting(
        None,
        "with a model whose tokens are cells (CellPLM): how many nearest cells of its slice are read together with "
        "each, instead of all cells of the slice.",
        least=1,
    )
    sample_key: str | None = setting(
        None,
        "column of `obs` that tells slices apart, whose coordinates have nothing to do with one another; by default "
        "all cells are of one slice.",
    )
    domains: int | None = setting(None, "how many domains; the resolution that gives them is looked for.", least=2)
    label_key: str | None = setting(
        None, "column of `obs` with known regions: domains are scored against them, beside simple methods."
    )
    spatial_key: str = setting("spatial", "name in `obsm` of the coordinates, two or three per cell.")
    key_added: str | None = setting(
        None,
        f"name of the domains in `obs`, and with `X_` before it of the embedding in `obsm`; default `{DOMAIN_KEY}`.",
        flag="--key",
        recorded=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbourhood is not None and self.use_rep is not None:
            raise ConfigurationError(
                "`neighbourhood` (`--neighbourhood`) is for a model: leave it out with `use_rep` (`--use-rep`)."
            )

    def key(self, family: str) -> str:
        """Name of the domains in `obs`, and of their record."""
        return self.key_added or DOMAIN_KEY

    def columns(self) -> tuple[str, ...]:
        """Names of the columns that `obs` will get."""
        return (self.key(""),)

    def batch_key_for(self, loaded: "LoadedModel") -> str | None:
        """The batches; for a model that sees whole samples, slices are samples unless others are named."""
        sees_samples = loaded.processor.context == "sample"
        return self.batch_key or (self.sample_key if sees_samples else None)


class Spatial(CellRun[SpatialSettings]):
    """Domains by smoothed embeddings."""

    needs_all = True

    def __init__(self, *run: Any) -> None:
        from ..sources.survey import refuse_alike

        super().__init__(*run)
        self.settings.check_embedding_named(self.loaded)
        require("scanpy", extra="evaluation")
        require("igraph", extra="evaluation")
        self._around = self._neighbourhoods()
        self._given = TissueCells(self.cells.source, self.settings)
        refuse_alike(self.cells.source)

    def _neighbourhoods(self) -> "Tissue | None":
        """The cells that each is read with; None = all of its slice."""
        from .tissue.neighbours import read_tissue

        asked = self.settings
        if asked.neighbourhood is None:
            return None
        if self.loaded.processor.context != "sample":
            raise _no_neighbourhood(self.loaded.name, "reads each cell alone")
        named = (asked.spatial_key, asked.sample_key)
        return read_tissue(self.cells.source, *named, asked.neighbourhood, "neighbourhood")

    def blocks(self, pieces: "Pieces | None" = None) -> "Iterator[tuple[slice | np.ndarray, np.ndarray]]":
        """Run the cells by whole slices, or each with those around it."""
        if self._around is None:
            return super().blocks(pieces)
        from .tissue.neighbourhoods import run_neighbourhoods

        return run_neighbourhoods(
            self.loaded,
            self.cells,
            self._around,
            self.forward,
            seed=self.settings.seed,
            description=self.verb.name,
            pieces=pieces,
        )

    def results(self, cells: "slice | np.ndarray", values: "np.ndarray") -> Results:
        """The domains, and the embedding that they come from."""
        from .clustering.sweep import check_embedding

        check_embedding(values, "The embedding")
        results, self._facts = self._given.results(values, "model")
        return results

    def facts(self, file: "Path | None") -> dict[str, Any]:
        """The resolutions, the slices, and the scores where there are labels."""
        return self._facts


def _no_neighbourhood(name: Any, why: str) -> ConfigurationError:
    return ConfigurationError(
        "`neighbourhood` (`--neighbourhood`) is for models that read several cells at once, as CellPLM does; "
        f"`{name}` {why}: leave it out."
    )


class TissueCells:
    """Cells with places in tissue, and labels where they are named; refuses those that cannot be used.

    Args:
        source: the cells.
        settings: the settings.
    """

    def __init__(self, source: "CellSource", settings: SpatialSettings) -> None:
        from .integration.batches import read_labels
        from .tissue.domains import baseline_domains, check_sizes
        from .tissue.neighbours import read_tissue

        self._settings = settings
        check_sizes(source.n_cells, settings.domains)
        self._tissue = read_tissue(source, settings.spatial_key, settings.sample_key, settings.neighbours)
        self._labels = read_labels(source, settings.label_key) if settings.label_key else None
        self._simple = baseline_domains(source, self._tissue, self._labels, settings) if self._labels else {}

    def results(
        self, embedding: "np.ndarray", name: str, *, is_smooth: bool = False
    ) -> tuple[Results, dict[str, Any]]:
        """The domains and the smoothed embedding, and what the record says of them.

        Args:
            embedding: (cells, size).
            name: what it is called among the scores.
            is_smooth: whether the embedding knows the neighbours already, and is taken as it is.
        """
        import numpy as np

        from .tissue.domains import find_domains

        pandas = require("pandas", extra="anndata")
        settings, key = self._settings, self._settings.key("")
        smoothed = embedding if is_smooth else (self._tissue.smoothing() @ embedding).astype(np.float32)
        found = find_domains(smoothed, settings)
        codes, n_domains = found.codes[found.chosen], int(found.n_clusters[found.chosen])
        if n_domains == 1:
            warn("No resolution finds more than one domain: ask for higher `resolutions` (`--resolutions`).")
        names = pandas.Categorical(codes.astype(str), categories=[str(code) for code in range(n_domains)])
        facts = {**self._facts(found), **self._scores(embedding, codes, name, is_smooth)}
        return Results(obs={key: names}, obsm={f"X_{key}": smoothed}), facts

    def _facts(self, found: "Sweep") -> dict[str, Any]:
        import numpy as np

        tissue = self._tissue
        return {
            "resolution": float(found.resolutions[found.chosen]),
            "sweep": {
                "resolution": found.resolutions,
                "n_domains": found.n_clusters,
                "stability": found.stability,
                "coherence": np.array([tissue.coherence(codes) for codes in found.codes]),
            },
            "slices": {"name": np.array(tissue.slices, object), "n_cells": np.bincount(tissue.numbers)},
        }

    def _scores(self, embedding: "np.ndarray", codes: "np.ndarray", name: str, is_smooth: bool) -> dict[str, Any]:
        from .tissue.domains import leiden_domains, score_domains

        if self._labels is None:
            return {}
        if is_smooth:
            domains = {**self._simple, f"{name} + Leiden": codes}
        else:
            alone = leiden_domains({f"{name} + Leiden": embedding}, self._settings)
            domains = {**self._simple, **alone, f"smoothed {name} + Leiden": codes}
        return {
            "scores": score_domains(domains, self._tissue, self._labels),
            "label_coherence": self._tissue.coherence(self._labels.numbers),
        }


SPATIAL = Verb(
    name="spatial",
    auto_class="AutoModel",
    settings=SpatialSettings,
    writes=("obs", "obsm"),
    run=Spatial,
    usage='cells = sclm_hf.spatial(cells, "{model}", sample_key="slice")\n'
    'cells.obs["sclm_domain"], cells.obsm["X_sclm_domain"]',
)


@documented_by(SPATIAL)
def spatial(
    adata: "AnnData",
    model: Any = None,
    processor: "CellProcessor | None" = None,
    *,
    copy: bool = True,
    **settings: Any,
) -> "AnnData":
    """Divide tissue into domains by embeddings that are averaged over neighbouring cells or spots.

    The embedding is one that `model` makes, or one that the cells have (`use_rep`). That of each cell is replaced by
    the mean over itself and its nearest neighbours in the same slice, near ones weighing more, whatever the family: no
    foundation model that the package knows uses coordinates. CellPLM's published code has a place for them but
    switches it off; its cells see those of their slice by expression alone, with `neighbourhood` the nearest of these
    only, which was no better for a trained model where it was measured. A task-specific model that does use them,
    such as TransformerST, gives an embedding that is taken as it is. The means are then clustered with Leiden, all
    slices together; slices are not corrected for batch effects. With `label_key`, principal components treated alike
    come first in the table of scores: they are hard to beat.

    Args:
        adata: cells or spots with raw counts, and coordinates in `obsm["spatial"]`.
        model: folder or repository id of a checkpoint or an adapter; or a loaded model; None with `use_rep`.
        processor: the processor; by default the one saved with the model.
        **settings: the fields of [`SpatialSettings`].
        copy: add to a copy in memory; False adds to `adata` itself (but not to the file of a backed one).

    Returns:
        The AnnData with

        - `obs["sclm_domain"]`: the domains, categorical, `"0"` being the largest;
        - `obsm["X_sclm_domain"]`: (n_cells, cell_embedding_size) float32, the smoothed embedding;
        - `uns["sclm_hf"]["sclm_domain"]`: `resolution`, the one chosen; `sweep`, the columns `resolution`,
          `n_domains`, `stability` (mean adjusted Rand index under resampling) and `coherence` (share of neighbours in
          the same domain: smoothing raises it, and a single domain has 1); `slices` with their sizes; with `label_key`
          also `scores`, the columns `method`, `n_domains`, `ari`, `nmi` and `coherence`, and `label_coherence`, that
          of the labels themselves; and how they were made.

    Warns:
        SclmWarning: there is one domain only, many cells lie at the very place of another one, or a method to compare
            with cannot give as many domains as asked for.

    Raises:
        ConfigurationError: coordinates are missing, of a slice too, not finite, of another shape or all the same; a
            slice has too few cells for the neighbours; there are fewer cells than domains; or no or two embeddings are
            named.
        CorpusError: `obs` lacks a column, or a cell has no slice.
        ExpressionError: the embedding is the same for all cells, or the data are not what is expected.
        MissingDependencyError: scanpy or igraph is not installed.
        Others as for [`embed`](sclm_hf.embed).
    """
    chosen = SPATIAL.choose(settings)
    chosen.check_embedding_named(model)
    from ..opening.specialists import is_specialist

    if is_specialist(model, settings.get("revision")):
        from .tissue.specialists import add_by_specialist

        if chosen.neighbourhood is not None:
            raise _no_neighbourhood(getattr(model, "name_or_path", model), "is a task-specific model of its own graph")
        return add_by_specialist(SPATIAL, adata, model, processor, settings, _of_smooth, copy=copy)
    if model is not None:
        return SPATIAL.add_to(adata, model, processor, settings, copy=copy)
    from .clustering.without_model import add_by_embedding

    def results_of(embedding: "np.ndarray", what: str, source: "CellSource") -> tuple[Results, dict[str, Any]]:
        return TissueCells(source, chosen).results(embedding, chosen.use_rep)

    return add_by_embedding(adata, chosen, results_of, copy=copy)


def _of_smooth(
    source: "CellSource", settings: SpatialSettings, embedding: "np.ndarray", name: str
) -> tuple[Results, dict[str, Any]]:
    """The domains by an embedding that knows the neighbours already, and what the record says of them."""
    return TissueCells(source, settings).results(embedding, name, is_smooth=True)
