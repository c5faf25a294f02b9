"""`cluster`: Leiden clusters of cells, how stable they are, and their marker genes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, ExpressionError, require
from ..logging import warn
from .clustering.settings import SweepSettings
from .running.cell_run import CellRun, Results
from .running.settings import setting
from .running.verb import Verb, documented_by

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from anndata import AnnData

    from ..sources.cell_source import CellSource
    from ..tokenization.processing_cell import CellProcessor
    from .clustering.sweep import Sweep

CLUSTER_KEY = "sclm_cluster"
UMAP = "X_umap"


@dataclass(frozen=True, kw_only=True)
class ClusterSettings(SweepSettings):
    """Settings of [`cluster`].

    Raises:
        ConfigurationError: a value is out of range, or resolutions are no numbers above 0.
    """

    n_clusters: int | None = setting(None, "how many clusters; the resolution that gives them is looked for.", least=2)
    n_neighbours: int = setting(15, "neighbours of each cell in the graph.", least=2)
    n_markers: int = setting(
        10,
        "how many marker genes to list for each cluster; 0 reads no counts. Their p values are too small, because the "
        "clusters were made from the same genes.",
        least=0,
    )
    umap: bool = setting(
        False,
        "also add a UMAP of the embedding, for pictures: `obsm['X_umap']`, or `obsm['<key>_umap']` where that is "
        "taken.",
        flag=None,
    )
    other: "str | Path | AnnData | None" = setting(
        None,
        "for a task-specific model of two modalities: the other one of the same cells, an AnnData or an `.h5ad` file, "
        "beside that of RNA.",
        recorded=False,
    )
    key_added: str | None = setting(
        None, f"name of the clusters in `obs`; default `{CLUSTER_KEY}`.", flag="--key", recorded=False
    )

    def key(self, family: str) -> str:
        """Name of the clusters in `obs`, and of their record."""
        return self.key_added or CLUSTER_KEY

    def columns(self) -> tuple[str, ...]:
        """Names of the columns that `obs` will get."""
        return (self.key(""),)


class Clustering(CellRun[ClusterSettings]):
    """Clusters of cells by the embeddings of a model."""

    needs_all = True

    def __init__(self, *run: Any) -> None:
        from ..sources.survey import refuse_alike
        from .clustering.sweep import check_sizes

        super().__init__(*run)
        self.settings.check_embedding_named(self.loaded)
        require("scanpy", extra="evaluation")
        require("igraph", extra="evaluation")
        check_sizes(len(self.cells.lengths), self.settings.n_neighbours, self.settings.n_clusters)
        refuse_alike(self.cells.source)

    def results(self, cells: "slice | np.ndarray", values: "np.ndarray") -> Results:
        """The clusters."""
        found, self._found = results_of(values, "The embedding", self.cells.source, self.settings)
        return found

    def facts(self, file: "Path | None") -> dict[str, Any]:
        """The resolutions, and marker genes."""
        return self._found


def results_of(
    embedding: "np.ndarray", what: str, source: "CellSource", settings: ClusterSettings
) -> tuple[Results, dict[str, Any]]:
    """The clusters of cells and, where it is asked for, the UMAP; arguments as for [`clusters_of`]."""
    key = settings.key("")
    labels, facts = clusters_of(embedding, what, source, settings)
    if not settings.umap:
        return Results(obs={key: labels}), facts
    from ..evaluation.plots import umap_layout

    name = f"{key}_umap" if UMAP in source.obsm_names() else UMAP
    return Results(obs={key: labels}, obsm={name: umap_layout(embedding, seed=settings.seed)}), {**facts, "umap": name}


def clusters_of(
    embedding: "np.ndarray", what: str, source: "CellSource", settings: ClusterSettings
) -> tuple[Any, dict[str, Any]]:
    """The clusters of cells, and what the record says of them.

    Args:
        embedding: (cells, size).
        what: what it is called.
        source: the cells, whose counts are read for marker genes.
        settings: the settings.
    """
    from .clustering.markers import marker_genes
    from .clustering.sweep import check_embedding, sweep

    pandas = require("pandas", extra="anndata")
    check_embedding(embedding, what)
    found = sweep(
        embedding,
        settings.resolution_values,
        n_neighbours=settings.n_neighbours,
        n_subsamples=settings.n_subsamples,
        n_clusters=settings.n_clusters,
        seed=settings.seed,
    )
    codes, n_clusters = found.codes[found.chosen], int(found.n_clusters[found.chosen])
    if n_clusters == 1:
        warn("No resolution finds more than one cluster: ask for higher `resolutions` (`--resolutions`).")
    markers = marker_genes(source, codes, settings.n_markers)
    labels = pandas.Categorical(codes.astype(str), categories=[str(code) for code in range(n_clusters)])
    return labels, {**_table(found), "markers": markers}


def _table(found: "Sweep") -> dict[str, Any]:
    return {
        "resolution": float(found.resolutions[found.chosen]),
        "sweep": {
            "resolution": found.resolutions,
            "n_clusters": found.n_clusters,
            "stability": found.stability,
        },
    }


CLUSTER = Verb(
    name="cluster",
    auto_class="AutoModel",
    settings=ClusterSettings,
    writes=("obs", "obsm"),
    run=Clustering,
    usage='cells = sclm_hf.cluster(cells, "{model}")\n'
    'cells.obs["sclm_cluster"], cells.uns["sclm_hf"]["sclm_cluster"]["markers"]',
)


@documented_by(CLUSTER)
def cluster(
    adata: "AnnData",
    model: Any = None,
    processor: "CellProcessor | None" = None,
    *,
    copy: bool = True,
    **settings: Any,
) -> "AnnData":
    """Cluster cells by the embeddings that `model` gives them, or by an embedding that they have.

    Neighbours and Leiden (Traag et al., Scientific Reports 9, 5233 (2019)) are scanpy's. Clusters at each resolution
    are compared with those of subsamples of 80 % of the cells, by the adjusted Rand index.

    Args:
        adata: cells with raw counts; for a task-specific model of two modalities, RNA or a MuData of both.
        model: folder or repository id of a checkpoint or an adapter; or a loaded model; None with `use_rep`.
        processor: the processor; by default the one saved with the model.
        **settings: the fields of [`ClusterSettings`].
        copy: add to a copy in memory; False adds to `adata` itself (but not to the file of a backed one).

    Returns:
        The AnnData with

        - `obs["sclm_cluster"]`: the clusters, categorical, `"0"` being the largest;
        - `uns["sclm_hf"]["sclm_cluster"]`: `resolution`, the one chosen; `sweep`, the columns `resolution`,
          `n_clusters` and `stability` (mean adjusted Rand index, 1 = the same clusters every time); `markers`, the
          columns `cluster`, `gene`, `score`, `log2_fold_change` and `p_adjusted`; and how they were made;
        - with `umap`, `obsm["X_umap"]`: (n_cells, 2), and its name as `umap` in the record.

    Raises:
        ConfigurationError: there are too few cells for the neighbours or clusters asked for, or no or two embeddings
            are named.
        ExpressionError: the embedding is the same for all cells, or the data are not what is expected.
        MissingDependencyError: scanpy or igraph is not installed.
        Others as for [`embed`](sclm_hf.embed).
    """
    chosen = CLUSTER.choose(settings)
    chosen.check_embedding_named(model)
    if model is None and chosen.other is not None:
        raise ConfigurationError("`other` (`--other`) is read by a `model` (`--model`) alone: leave it out.")
    if model is not None and (chosen.other is not None or hasattr(adata, "mod")):
        return _cluster_pair(adata, model, processor, settings, copy=copy)
    if model is not None:
        return CLUSTER.add_to(adata, model, processor, settings, copy=copy)
    from .clustering.without_model import add_by_embedding

    def checked(embedding: "np.ndarray", what: str, source: "CellSource") -> tuple[Results, dict[str, Any]]:
        _check_without_model(source, chosen)
        return results_of(embedding, what, source, chosen)

    return add_by_embedding(adata, chosen, checked, copy=copy)


def _cluster_pair(adata: Any, model: Any, processor: Any, settings: dict[str, Any], *, copy: bool) -> Any:
    """Two modalities, which only task-specific models read; arguments as for [`cluster`]."""
    from ..opening.specialists import is_specialist
    from .multimodality.specialists import add_by_specialist

    if not is_specialist(model, settings.get("revision")):
        raise ConfigurationError(
            "Two modalities are for task-specific models that were trained on both: give RNA alone, or join both by "
            "`multimodal` and cluster with `use_rep` (`--use-rep`)."
        )
    given = {name: value for name, value in settings.items() if name != "other"}
    return add_by_specialist(CLUSTER, adata, settings.get("other"), model, processor, given, copy=copy)


def _check_without_model(source: "CellSource", settings: ClusterSettings) -> None:
    """Refuse too few cells, and what is no counts, in which no model looked for them."""
    from .clustering.markers import holds_counts
    from .clustering.sweep import check_sizes

    check_sizes(source.n_cells, settings.n_neighbours, settings.n_clusters)
    if settings.n_markers and not holds_counts(source):
        raise ExpressionError(
            f"`{source.data_name}` holds no counts, from which marker genes are found: name with `layer` (`--layer`) "
            "where counts are, or leave markers out with `n_markers=0` (`--n-markers 0`)."
        )
