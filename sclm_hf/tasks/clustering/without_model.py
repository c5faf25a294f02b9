"""What follows from an embedding that cells already have, without a model."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError, require
from ...sources.cell_source import CellSource
from ...sources.in_memory import InMemorySource
from ...versions import package_versions
from ..running.cell_run import Results
from ..running.provenance import check_adata, check_target, record, take_target
from .sweep import check_embedding

if TYPE_CHECKING:
    from anndata import AnnData

    from .settings import SweepSettings


def add_by_embedding(
    adata: "AnnData",
    settings: "SweepSettings",
    results_of: Callable[[np.ndarray, str, CellSource], tuple[Results, dict[str, Any]]],
    *,
    copy: bool,
) -> "AnnData":
    """Add what a verb that clusters makes of the embedding that `settings.use_rep` names.

    Args:
        adata: the cells.
        settings: the settings of the verb.
        results_of: makes the results, and what the record says of them, from (cells, size) an embedding, what it is
            called, and the cells.
        copy: add to a copy in memory.

    Raises:
        ConfigurationError: there is no such embedding.
        ExpressionError: it is the same for all cells.
        MissingDependencyError: scanpy or igraph is not installed.
        Others as for `results_of`.
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
    check_embedding(embedding, what)
    source = InMemorySource(adata, settings.layer)
    results, facts = results_of(embedding, what, source)
    result = take_target(adata, copy=copy)
    for place, values in results.by_place():
        for name, value in values.items():
            getattr(result, place)[name] = value
    kept = {name: "" if value is None else value for name, value in settings.to_record().items()}
    about = {"model": "", "revision": "", "data": source.data_name, "settings": kept}
    versions = package_versions("scanpy", "igraph", "numpy", "anndata")
    record(result, settings.key(""), {**about, "versions": versions, **facts})
    return result
