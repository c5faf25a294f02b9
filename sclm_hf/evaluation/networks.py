"""Gene networks beside known ones: AUPRC and early precision over chance, and AUROC.

As in Pratapa et al. (BEELINE), Nature Methods 17, 147-154 (2020), doi:10.1038/s41592-019-0690-6: scored are all pairs
of a regulator that the known network has and another gene that it has. Known networks are incomplete and belong to no
cell type, so that scores compare methods and say little about any edge.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ConfigurationError, require
from ..files import read_json_object

if TYPE_CHECKING:
    from pandas import DataFrame

METRICS = ("auprc_ratio", "early_precision_ratio", "auroc")

REGULATOR_COLUMNS = ("regulator", "tf", "source", "from")
TARGET_COLUMNS = ("target", "to")
SIGN_COLUMNS = ("sign", "mor")

MOST_BYTES = 2**28
"""Of a JSON file."""


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


def read_network(path: str | Path) -> "DataFrame":
    """Read a known network.

    Args:
        path: a table (`.csv`, `.tsv`, also `.gz`, or `.parquet`) with a column `regulator`, `tf`, `source` or `from`
            and one `target` or `to`, as DoRothEA and OmniPath have them, and a sign in `sign` or `mor` if there is
            one; or a JSON object of regulator -> targets, whose names may end with a blank and a cell line.

    Returns:
        A data frame with the columns `regulator`, `target` and `sign` (1, -1 or NaN), each pair once.

    Raises:
        ConfigurationError: the file cannot be read, or has no such columns or no edges.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigurationError(f"There is no network `{path}`: name a file with `network` (`--network`).")
    table = _of_json(path) if path.suffix == ".json" else _of_table(path)
    table = table.dropna(subset=["regulator", "target"]).drop_duplicates(["regulator", "target"], ignore_index=True)
    if table.empty:
        raise ConfigurationError(f"The network `{path}` has no edges.")
    return table


def _of_json(path: Path) -> "DataFrame":
    pandas = require("pandas", extra="evaluation")
    content = read_json_object(path, ConfigurationError, max_bytes=MOST_BYTES)
    if not all(isinstance(targets, list) for targets in content.values()):
        raise ConfigurationError(f"`{path}` must hold lists of targets by regulator.")
    pairs = [(name.split(" ")[0], str(target), np.nan) for name, targets in content.items() for target in targets]
    return pandas.DataFrame(pairs, columns=["regulator", "target", "sign"])


def _of_table(path: Path) -> "DataFrame":
    pandas = require("pandas", extra="evaluation")
    try:
        if path.suffix == ".parquet":
            table = pandas.read_parquet(path)
        else:
            table = pandas.read_csv(path, sep="\t" if ".tsv" in path.suffixes else ",", low_memory=False)
    except Exception as cause:
        raise ConfigurationError(f"The network `{path}` cannot be read as a table: {cause}.") from cause
    columns = {str(name).lower(): name for name in table.columns}
    found = [next((columns[name] for name in names if name in columns), None) for names in _COLUMNS]
    if found[0] is None or found[1] is None:
        raise ConfigurationError(
            f"The network `{path}` needs a column of regulators ({', '.join(REGULATOR_COLUMNS)}) and one of targets "
            f"({', '.join(TARGET_COLUMNS)}), got {list(map(str, table.columns[:10]))}."
        )
    sign = np.nan if found[2] is None else np.sign(pandas.to_numeric(table[found[2]], errors="coerce"))
    return pandas.DataFrame({"regulator": table[found[0]], "target": table[found[1]], "sign": sign}).astype(
        {"regulator": object, "target": object, "sign": float}
    )


_COLUMNS = (REGULATOR_COLUMNS, TARGET_COLUMNS, SIGN_COLUMNS)


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
        (3,) the `METRICS`, and (n_resamples, 3) those of each draw.
    """
    ranked, rng = _Ranked(scores, known), np.random.default_rng(seed)
    rows = np.flatnonzero(known.tested.any(axis=1))
    draws = np.empty((n_resamples, len(METRICS)))
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
