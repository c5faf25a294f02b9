"""Clusters by an embedding that cells already have."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError, ExpressionError, require
from ...sources.in_memory import InMemorySource
from ...versions import package_versions
from ..running.provenance import check_adata, check_target, record, take_target
from .markers import holds_counts
from .sweep import check_embedding, check_sizes

if TYPE_CHECKING:
    from anndata import AnnData

    from ..cluster import ClusterSettings


def cluster_embedding(
    adata: "AnnData", settings: "ClusterSettings", clusters_of: Callable[..., Any], *, copy: bool
) -> "AnnData":
    """Add clusters to cells; see [`sclm_hf.cluster`].

    Raises:
        ConfigurationError: there is no such embedding, or too few cells.
        ExpressionError: it is the same for all cells, or there are no counts for marker genes.
        MissingDependencyError: scanpy or igraph is not installed.
    """
    check_adata(adata)
    check_target(adata, copy=copy)
    require("scanpy", extra="evaluation")
    require("igraph", extra="evaluation")
    if settings.use_rep not in adata.obsm:
        raise ConfigurationError(
            f"`obsm` has no {settings.use_rep!r} (`use_rep`, `--use-rep`); it has {sorted(adata.obsm)}."
        )
    what, embedding = f"`obsm[{settings.use_rep!r}]`", np.asarray(adata.obsm[settings.use_rep])
    check_sizes(adata.n_obs, settings.n_neighbours, settings.n_clusters)
    check_embedding(embedding, what)
    source = InMemorySource(adata, settings.layer)
    if settings.n_markers and not holds_counts(source):
        raise ExpressionError(
            f"`{source.data_name}` holds no counts, from which marker genes are found: name with `layer` (`--layer`) "
            "where counts are, or leave markers out with `n_markers=0` (`--n-markers 0`)."
        )
    labels, facts = clusters_of(embedding, what, source, settings)
    result = take_target(adata, copy=copy)
    key = settings.key("")
    result.obs[key] = labels
    settings_kept = {name: "" if value is None else value for name, value in settings.to_record().items()}
    about = {"model": "", "revision": "", "data": source.data_name, "settings": settings_kept}
    record(result, key, {**about, "versions": package_versions("scanpy", "igraph", "numpy", "anndata"), **facts})
    return result
