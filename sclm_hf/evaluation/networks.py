"""Gene networks beside known ones: AUPRC and early precision over chance, and AUROC.

As in Pratapa et al. (BEELINE), Nature Methods 17, 147-154 (2020), doi:10.1038/s41592-019-0690-6: scored are all pairs
of a regulator that the known network has and another gene that it has. Known networks are incomplete and belong to no
cell type, so that scores compare methods and say little about any edge.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ConfigurationError
from ..logging import counted, warn
from ..tokenization.genes.known_networks import read_network

if TYPE_CHECKING:
    from pandas import DataFrame

FEWEST_REGULATORS, FEWEST_EDGES = 5, 20
"""Among the pairs compared, below which scores and their intervals say little."""

METRICS = ("auprc_ratio", "early_precision_ratio", "auroc")
__all__ = ["METRICS", "KnownPairs", "interval", "known_pairs", "read_network", "score_network", "score_with_intervals"]


class KnownPairs(NamedTuple):
    """The part of a known network that a score matrix can be compared with.

    Attributes:
        tested: (regulators, targets) bool, pairs that the comparison is about.
        edges: (regulators, targets) bool, those of them that are known edges.
        n_edges: edges of the known network, with those outside of the matrix.
    """

    tested: np.ndarray
    edges: np.ndarray
    n_edges: int

    @property
    def n_regulators(self) -> int:
        """Regulators with pairs that are compared."""
        return int(self.tested.any(axis=1).sum())

    def warn_of_few(self, name: str) -> None:
        """Warn where scores of few regulators or known edges say little.

        Args:
            name: what the network is called.
        """
        n_regulators, n_edges = self.n_regulators, int(self.edges[self.tested].sum())
        if n_regulators >= FEWEST_REGULATORS and n_edges >= FEWEST_EDGES:
            return
        alone = " One regulator leaves nothing to draw: there are no intervals." if n_regulators == 1 else ""
        warn(
            f"The network `{name}` has {counted(n_edges, 'edge')} of {counted(n_regulators, 'regulator')} between the "
            f"genes scored: with fewer than {FEWEST_REGULATORS} regulators or {FEWEST_EDGES} edges scores say little, "
            f"and their intervals are too narrow.{alone} Take more genes (`n_genes`, `--n-genes`; `regulators`, "
            "`--regulators`), or a larger network."
        )


def known_pairs(network: "DataFrame", regulators: Sequence[str], targets: Sequence[str], name: str) -> KnownPairs:
    """Find a known network among the genes that are scored.

    Args:
        network: as [`read_network`] gives it.
        regulators: (regulators,) names of the rows of scores.
        targets: (targets,) names of their columns.
        name: what the network is called.

    Raises:
        ConfigurationError: it has no edge between these genes, or has them all.
    """
    rows, columns = ({gene: place for place, gene in enumerate(names)} for names in (regulators, targets))
    pairs = [
        (rows[regulator], columns[target])
        for regulator, target in zip(network["regulator"], network["target"], strict=True)
        if regulator in rows and target in columns and regulator != target
    ]
    edges = np.zeros((len(rows), len(columns)), bool)
    edges[tuple(np.array(pairs, np.int64).reshape(-1, 2).T)] = True
    there = {*network["regulator"], *network["target"]}
    tested = edges.any(axis=1)[:, None] & np.array([gene in there for gene in targets])
    tested &= np.asarray(regulators, object)[:, None] != np.asarray(targets, object)
    if not edges.any() or edges[tested].all():
        n_known = sum(gene in there for gene in columns)
        raise ConfigurationError(
            f"The network `{name}` has {int(edges.sum()):,} edges between the genes scored, of which it knows "
            f"{n_known:,} of {len(columns):,} by name ({', '.join(list(columns)[:3])}, …; its own are "
            f"{', '.join(map(str, list(network['target'][:3])))}, …): nothing can be compared. Name genes as it does, "
            "or take more of them (`n_genes`, `--n-genes`)."
        )
    return KnownPairs(tested, edges, len(network))


def score_network(scores: np.ndarray, known: KnownPairs, weights: np.ndarray | None = None) -> np.ndarray:
    """Compare scores with known edges.

    Args:
        scores: (regulators, targets), higher = more likely an edge; NaN = not scored, which ranks last.
        known: the known edges.
        weights: (regulators,) how often each counts; once unless given.

    Returns:
        (3,) the `METRICS`: AUPRC and early precision (among as many top pairs as there are edges), each over the share
        of edges among the pairs, so that chance is 1; and AUROC. Of tied pairs each counts as the mean of them.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    return _Ranked(scores, known).metrics(weights)


def score_with_intervals(
    scores: np.ndarray, known: KnownPairs, *, n_resamples: int = 200, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """[`score_network`], and its values when regulators are drawn anew.

    Regulators are drawn with replacement, because the edges of one depend on one another. Different scores of the same
    pairs get the same draws, so that the differences of these have intervals too.

    Returns:
        (3,) the `METRICS`, and (n_resamples, 3) those of each draw; NaN where there is one regulator, of which all
        draws would be the same.
    """
    ranked, rng = _Ranked(scores, known), np.random.default_rng(seed)
    rows = np.flatnonzero(known.tested.any(axis=1))
    draws = np.full((n_resamples, len(METRICS)), np.nan)
    if len(rows) < 2:
        return ranked.metrics(np.ones(len(scores))), draws
    for draw in draws:
        weights = np.bincount(rng.choice(rows, len(rows)), minlength=len(scores)).astype(float)
        draw[:] = ranked.metrics(weights)
    return ranked.metrics(np.ones(len(scores))), draws


class _Ranked:
    """The pairs of a comparison, the best first.

    Args:
        scores, known: as for [`score_network`].
    """

    def __init__(self, scores: np.ndarray, known: KnownPairs) -> None:
        values = np.nan_to_num(scores[known.tested].astype(float), nan=-np.inf)
        order = np.argsort(-values, kind="stable")
        self._rows = np.nonzero(known.tested)[0][order]
        self._edges = known.edges[known.tested][order]
        values = values[order]
        self._last_of_ties = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)

    def metrics(self, weights: np.ndarray) -> np.ndarray:
        """(3,) with weights of the regulators."""
        weights = weights[self._rows]
        n_pairs = np.cumsum(weights)[self._last_of_ties]
        n_edges = np.cumsum(weights * self._edges)[self._last_of_ties]
        share = n_edges[-1] / n_pairs[-1]
        precision = np.divide(n_edges, n_pairs, out=np.zeros_like(n_edges), where=n_pairs > 0)
        auprc = np.diff(n_edges, prepend=0) @ precision / n_edges[-1]
        early = np.interp(n_edges[-1], np.append(0, n_pairs), np.append(0, n_edges)) / n_edges[-1]
        others = n_pairs - n_edges
        auroc = np.trapezoid(np.append(0, n_edges), np.append(0, others)) / (n_edges[-1] * others[-1])
        return np.array([auprc / share, early / share, auroc])


def interval(draws: np.ndarray, level: float = 0.95) -> tuple[Any, Any]:
    """Lower and upper ends of percentile intervals of (draws, …) values."""
    return tuple(np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0))
