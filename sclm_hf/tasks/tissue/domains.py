"""Domains of tissue: Leiden clusters of smoothed embeddings, scored beside simple methods."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError, require
from ...evaluation.integration.representations import principal_components
from ...logging import warn
from ...sources.cell_source import CellSource
from ..clustering.sweep import SHARE, Sweep, sweep
from ..integration.batches import Column
from .neighbours import Tissue

if TYPE_CHECKING:
    from ..spatial import SpatialSettings

N_NEIGHBOURS = 15
"""Neighbours of each cell in the graph of expression that Leiden divides, as in scanpy."""


def check_sizes(n_cells: int, n_domains: int | None) -> None:
    """Refuse too few cells.

    Raises:
        ConfigurationError: there are fewer cells than domains, or than neighbours in a subsample.
    """
    if n_domains is not None and n_domains > n_cells:
        raise ConfigurationError(
            f"`domains` (`--domains`) asks for {n_domains:,} domains of {n_cells:,} cells: ask for fewer."
        )
    if int(SHARE * n_cells) <= N_NEIGHBOURS:
        raise ConfigurationError(f"{n_cells:,} cells are too few for domains: at least 20 are needed.")


def find_domains(embedding: np.ndarray, settings: "SpatialSettings") -> Sweep:
    """Leiden clusters of the cells, at each resolution or as many as asked for.

    Args:
        embedding: (n_cells, size).
        settings: the settings.

    Raises:
        ConfigurationError: no resolution gives as many.
    """
    return sweep(
        embedding,
        settings.resolution_values,
        n_neighbours=N_NEIGHBOURS,
        n_subsamples=settings.n_subsamples,
        n_clusters=settings.domains,
        asked_by="`domains` (`--domains`)",
        seed=settings.seed,
    )


def baseline_domains(
    source: CellSource, tissue: Tissue, labels: Column, settings: "SpatialSettings"
) -> dict[str, np.ndarray]:
    """What a model has to beat.

    k-means makes as many domains as were asked for, else as many as there are labels, which Leiden is not told.

    Args:
        source: the cells, all of which are read into memory.
        tissue: their neighbours.
        labels: their labels.
        settings: the settings.

    Returns:
        Method -> (n_cells,) domains.

    Warns:
        SclmWarning: no resolution gives as many domains; the method is then left out.
    """
    cluster = require("sklearn.cluster", extra="evaluation")
    components = principal_components(source.read(np.arange(source.n_cells)), seed=settings.seed)
    smoothed = tissue.smoothing() @ components
    found = leiden_domains({"PCA + Leiden": components, "smoothed PCA + Leiden": smoothed}, settings)
    kmeans = cluster.KMeans(settings.domains or len(labels.names), n_init=10, random_state=settings.seed)
    return {**found, "smoothed PCA + k-means": kmeans.fit_predict(smoothed)}


def leiden_domains(embeddings: Mapping[str, np.ndarray], settings: "SpatialSettings") -> dict[str, np.ndarray]:
    """Method -> (n_cells,) domains by its embedding; left out, with a warning, where there are none as asked for."""
    found = {}
    for method, embedding in embeddings.items():
        try:
            swept = find_domains(embedding, settings)
        except ConfigurationError as error:
            warn(f"{method} is not among the scores. {error}")
            continue
        found[method] = swept.codes[swept.chosen]
    return found


def score_domains(domains: Mapping[str, np.ndarray], tissue: Tissue, labels: Column) -> dict[str, Any]:
    """How well domains agree with labels, and how well they hang together.

    Args:
        domains: method -> (n_cells,) domains.
        tissue: the neighbours of the cells.
        labels: their labels; cells without one count for `coherence` only.

    Returns:
        The columns of a table with one row per method: `method`, `n_domains`, `ari`, `nmi` and `coherence`.
    """
    metrics = require("sklearn.metrics", extra="evaluation")
    known = labels.numbers >= 0
    truth = labels.numbers[known]
    codes = list(domains.values())
    return {
        "method": np.array(list(domains), object),
        "n_domains": np.array([len(np.unique(one)) for one in codes]),
        "ari": np.array([metrics.adjusted_rand_score(truth, one[known]) for one in codes]),
        "nmi": np.array([metrics.normalized_mutual_info_score(truth, one[known]) for one in codes]),
        "coherence": np.array([tissue.coherence(one) for one in codes]),
    }
