"""The scores of scIB for an integrated embedding, through `scib-metrics`.

Source: Luecken et al., "Benchmarking atlas-level data integration in single-cell genomics", Nature Methods 19, 41-50
(2022). All scores lie between 0 and 1, and more is better.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...errors import ConfigurationError, require
from .neighbours import BIOLOGY_WEIGHT

BIOLOGY = ("nmi", "ari", "asw_label", "isolated_labels", "clisi")
"""Scores of what stays: Leiden clusters against labels at the best of ten resolutions (NMI, ARI), silhouettes of all
labels and of those in the fewest batches, and the labels among the nearest cells."""

MIXING = ("asw_batch", "graph_connectivity", "ilisi", "kbet", "pcr")
"""Scores of what is taken away: silhouettes of batches within labels, whether the cells of a label hang together, the
batches among the nearest cells (iLISI, kBET), and how much less of the variance batches explain than before (PCR)."""

N_NEIGHBOURS = 90
"""The most neighbours that a score looks at, the cell itself included."""


def check_scores(batches: np.ndarray, labels: np.ndarray) -> None:
    """Refuse what cannot be scored, before anything else is computed.

    Args:
        batches: (n_cells,) batch of each cell to score.
        labels: (n_cells,) label of each.

    Raises:
        ConfigurationError: there are too few cells, one label only, or no label has cells of two batches.
        MissingDependencyError: scib-metrics is not installed.
    """
    require("scib_metrics", extra="integration")
    require("igraph", extra="evaluation")
    if len(labels) <= N_NEIGHBOURS:
        raise ConfigurationError(
            f"The scores of an embedding look at the {N_NEIGHBOURS} nearest cells, and there are {len(labels)} to "
            "score: give more."
        )
    names = np.unique(labels)
    if len(names) < 2 or not any(len(np.unique(batches[labels == name])) > 1 for name in names):
        has = "one label only" if len(names) < 2 else "no label in two batches"
        raise ConfigurationError(
            f"The {len(labels):,} cells to score have {has}: whether batches mix and cell types stay apart "
            "cannot be told. Name another `label_key` or `batch_key` "
            "(`--label-key`, `--batch-key`), or give more cells."
        )


def integration_scores(
    embedding: np.ndarray, batches: np.ndarray, labels: np.ndarray, before: np.ndarray
) -> dict[str, float]:
    """The scores of an embedding by name; `biology` and `mixing`, their means, and `total`, 0.6 and 0.4 of these.

    A score that cells cannot have, as kBET where no label has ten cells in two batches, is NaN and left out of means.

    Args:
        embedding: (n_cells, size).
        batches: (n_cells,) batch of each.
        labels: (n_cells,) label of each.
        before: (n_cells, components) principal components before the integration, which PCR compares with.

    Raises:
        ConfigurationError: see [`check_scores`].
        MissingDependencyError: scib-metrics is not installed.
    """
    check_scores(batches, labels)
    scib = require("scib_metrics", extra="integration")
    vectors = np.ascontiguousarray(embedding, np.float32)
    batches, labels = (np.unique(values, return_inverse=True)[1] for values in (batches, labels))
    graph = _neighbours(vectors)
    with _quietly():
        clusters = scib.nmi_ari_cluster_labels_leiden(graph.subset_neighbors(15), labels)
        scores = {
            "nmi": clusters["nmi"],
            "ari": clusters["ari"],
            "asw_label": scib.silhouette_label(vectors, labels),
            "isolated_labels": scib.isolated_labels(vectors, labels, batches),
            "clisi": scib.clisi_knn(graph, labels),
            "asw_batch": scib.silhouette_batch(vectors, labels, batches),
            "graph_connectivity": scib.graph_connectivity(graph.subset_neighbors(15), labels),
            "ilisi": scib.ilisi_knn(graph, batches),
            "kbet": scib.kbet_per_label(graph.subset_neighbors(50), batches, labels),
            "pcr": scib.pcr_comparison(np.asarray(before, np.float32), vectors, batches, categorical=True),
        }
        scores = {name: float(value) for name, value in scores.items()}
        biology, mixing = (float(np.nanmean([scores[name] for name in names])) for names in (BIOLOGY, MIXING))
    total = BIOLOGY_WEIGHT * biology + (1 - BIOLOGY_WEIGHT) * mixing
    return scores | {"biology": biology, "mixing": mixing, "total": total}


def _neighbours(vectors: np.ndarray) -> Any:
    """The nearest cells, exactly, as scib-metrics takes them."""
    results = require("scib_metrics.nearest_neighbors", extra="integration").NeighborsResults
    neighbours = require("sklearn.neighbors", extra="evaluation").NearestNeighbors(n_neighbors=N_NEIGHBOURS)
    distances, indices = neighbours.fit(vectors).kneighbors(vectors)
    return results(indices=indices, distances=distances.astype(np.float32))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without its warnings of means of nothing and of scores that were cut at 0, and without its messages."""
    logger = logging.getLogger("scib_metrics")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)
