"""Scores of pairs of genes as a table of edges, with signs; and the programs that they form."""

import warnings
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ConfigurationError, require
from .genes import NetworkGenes

if TYPE_CHECKING:
    from pandas import DataFrame


def signs_of(correlations: np.ndarray, n_cells: int) -> np.ndarray:
    """Signs of correlations whose 95 % interval (Fisher's z) leaves out 0.

    Args:
        correlations: (…) Pearson's.
        n_cells: cells that they are made from.

    Returns:
        (…) int8, 1 or -1; 0 where the sign is not known.
    """
    known = np.abs(np.arctanh(np.clip(correlations, -0.999999, 0.999999))) > 1.959964 / np.sqrt(max(n_cells - 3, 1))
    return (np.sign(correlations) * known).astype(np.int8)


def edge_table(
    scores: np.ndarray,
    signs: np.ndarray,
    genes: NetworkGenes,
    *,
    evidence: str,
    n_edges: int,
    each_pair_once: bool,
    sign_source: str = "correlation",
    condition: str | None = None,
) -> "DataFrame":
    """The strongest edges, the strongest first; of equal ones the first by regulator and target.

    Args:
        scores: (regulators, targets); NaN = no edge.
        signs: (regulators, targets) 1, -1, or 0 = not known, as from [`signs_of`].
        genes: the genes.
        evidence: what the scores come from.
        n_edges: at most this many.
        each_pair_once: whether an edge of two regulators means the same both ways, and is listed once.
        sign_source: what the signs come from.
        condition: condition of the cells.
    """
    pandas = require("pandas", extra="anndata")
    names = genes.names.astype(str)
    rows, columns = np.nonzero(np.isfinite(scores))
    one, other = genes.regulators[rows], genes.targets[columns]
    listed = one != other
    if each_pair_once:
        listed &= (names[one] < names[other]) | ~np.isin(other, genes.regulators) | ~np.isin(one, genes.targets)
    rows, columns = rows[listed], columns[listed]
    # whatever the order of the columns
    of_names = names[genes.targets[columns]], names[genes.regulators[rows]]
    best = np.lexsort((*of_names, -scores[rows, columns]))[:n_edges]
    rows, columns = rows[best], columns[best]
    signs = pandas.array(signs[rows, columns], dtype="Int8")
    signs[signs == 0] = pandas.NA
    table = {
        "regulator": genes.names[genes.regulators[rows]],
        "target": genes.names[genes.targets[columns]],
        "sign": signs,
        "sign_source": sign_source,
        "score": scores[rows, columns].astype(np.float32),
        "evidence": evidence,
    }
    return pandas.DataFrame(table if condition is None else {**table, "condition": condition})


def gene_programs(edges: "DataFrame", *, resolution: float = 1.0, seed: int = 0) -> "DataFrame":
    """Communities of genes in a network: Leiden's, of modularity, on edges with a positive score.

    Args:
        edges: a table of edges as `grn` gives it, of one condition.
        resolution: of modularity; higher = more and smaller programs.
        seed: seed of Leiden.

    Returns:
        A data frame with the columns `gene`, `program` (0 is the largest) and `strength`, the sum of a gene's scores
        within its program; sorted by program, and in it by strength.

    Raises:
        ConfigurationError: no edge has a positive score, or edges are of several conditions.
    """
    pandas, igraph = require("pandas", extra="anndata"), require("igraph", extra="evaluation")
    if "condition" in edges and edges["condition"].nunique() > 1:
        raise ConfigurationError(
            "Programs are those of one network: choose a condition, `edges[edges.condition == …]`."
        )
    edges = edges[edges["score"] > 0]
    if edges.empty:
        raise ConfigurationError("No edge has a positive score: there are no programs.")
    codes, names = pandas.factorize(pandas.concat([edges["regulator"], edges["target"]]), sort=True)
    pairs = codes.reshape(2, -1).T
    graph = igraph.Graph(len(names), pairs.tolist(), edge_attrs={"weight": edges["score"].tolist()})
    found = np.asarray(_leiden(graph, resolution, seed))
    found = np.argsort(np.argsort(-np.bincount(found), kind="stable"))[found]
    within = found[pairs[:, 0]] == found[pairs[:, 1]]
    scores = edges["score"].to_numpy(float) * within
    strength = sum(np.bincount(pairs[:, end], weights=scores, minlength=len(names)) for end in (0, 1))
    table = pandas.DataFrame({"gene": names, "program": found, "strength": strength})
    return table.sort_values(["program", "strength", "gene"], ascending=[True, False, True], ignore_index=True)


def _leiden(graph, resolution: float, seed: int) -> list[int]:
    import random

    # igraph draws from Python's generator unless it is given one
    igraph = require("igraph", extra="evaluation")
    igraph.set_random_number_generator(random.Random(seed))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = graph.community_leiden("modularity", weights="weight", resolution=resolution, n_iterations=10)
    finally:
        igraph.set_random_number_generator(random)
    return found.membership
