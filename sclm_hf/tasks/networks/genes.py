"""The genes of a network: its regulators and their targets."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...errors import ConfigurationError
from ...logging import warn

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

FEWEST_CELLS = 10
"""Cells that a gene must be expressed in, and cells that a network is made from."""


class NetworkGenes(NamedTuple):
    """The genes of a network.

    Attributes:
        names: (genes,) their names in the data.
        columns: (genes,) their columns there.
        regulators: (regulators,) places among them, ascending.
        targets: (targets,) places among them, ascending.
    """

    names: np.ndarray
    columns: np.ndarray
    regulators: np.ndarray
    targets: np.ndarray


class GeneMoments(NamedTuple):
    """How genes are expressed.

    Attributes:
        n_cells: (columns,) cells that express each.
        means: (columns,) means of the log-normalised expression.
        variances: (columns,) its variances.
    """

    n_cells: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    @classmethod
    def of(cls, blocks: "Iterable[csr_matrix]") -> "GeneMoments":
        """Those of cells that come in blocks of (cells, columns) log-normalised expression, one at least."""
        found = [
            (block.shape[0], np.bincount(block.indices, minlength=block.shape[1]), block.sum(0), block.power(2).sum(0))
            for block in blocks
        ]
        total, n_cells, sums, squares = (np.sum(part, axis=0) for part in zip(*found, strict=True))
        means = np.asarray(sums).ravel() / total
        return cls(n_cells, means, np.asarray(squares).ravel() / total - means**2)


def choose_genes(
    names: Sequence[str],
    readable: np.ndarray,
    expression: GeneMoments,
    *,
    genes: Sequence[str] | None,
    n_genes: int,
    regulators: Sequence[str] | None,
) -> NetworkGenes:
    """Choose targets and regulators among the genes that the model reads and that at least 10 cells express.

    Args:
        names: (columns,) names of the genes of the data.
        readable: (columns,) bool, those that the model reads.
        expression: how they are expressed.
        genes: the targets; by default the `n_genes` genes of the highest variance.
        n_genes: how many.
        regulators: the regulators; those that cannot be used are reported. By default the targets.

    Raises:
        ConfigurationError: a target or all regulators cannot be used, or a name means several columns.
    """
    usable = readable & (expression.n_cells >= FEWEST_CELLS)
    if genes is None:
        targets = _most_variable(expression, names, usable, n_genes)
    else:
        targets, refused = _columns_of(genes, names, usable)
        if refused:
            raise ConfigurationError(
                f"`genes` (`--genes`): {_told(refused, len(genes), names, readable)}. Leave these out."
            )
    chosen = targets if regulators is None else _regulators(regulators, names, readable, usable)
    columns = np.union1d(targets, chosen)
    if len(columns) < 2:
        raise ConfigurationError(f"A network needs at least 2 genes, got {len(columns)}: name more of them.")
    places = np.searchsorted(columns, chosen), np.searchsorted(columns, targets)
    return NetworkGenes(np.asarray(names, object)[columns], columns, *map(np.unique, places))


def _most_variable(expression: GeneMoments, names: Sequence[str], usable: np.ndarray, n_genes: int) -> np.ndarray:
    variances = expression.variances
    found = np.flatnonzero(usable)
    # equal variances are ordered by name, so that the order of columns does not matter
    return found[np.lexsort((np.asarray(names, str)[found], -variances[found]))[:n_genes]]


def _regulators(
    regulators: Sequence[str], names: Sequence[str], readable: np.ndarray, usable: np.ndarray
) -> np.ndarray:
    found, refused = _columns_of(regulators, names, usable)
    told = _told(refused, len(regulators), names, readable)
    if not found.size:
        raise ConfigurationError(
            f"`regulators` (`--regulators`): {told}. Names must be those of the data, such as "
            f"{', '.join(map(repr, map(str, names[:3])))}."
        )
    if refused:
        warn(f"Regulators left out: {told}.")
    return found


def _columns_of(wanted: Sequence[str], names: Sequence[str], usable: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Columns of genes, and the names of those that cannot be used.

    Raises:
        ConfigurationError: a name means several columns.
    """
    columns: dict[str, list[int]] = {}
    for column in np.flatnonzero(usable).tolist():
        columns.setdefault(str(names[column]), []).append(column)
    if doubled := [name for name in wanted if len(columns.get(name, ())) > 1]:
        raise ConfigurationError(
            f"`{doubled[0]}` is the name of {len(columns[doubled[0]])} genes of the data: make names unique first "
            "(`adata.var_names_make_unique()`)."
        )
    found = [columns[name][0] for name in wanted if name in columns]
    return np.array(found, np.int64), [name for name in wanted if name not in columns]


def _told(refused: Sequence[str], n_wanted: int, names: Sequence[str], readable: np.ndarray) -> str:
    """Which genes cannot be used, for each of the reasons."""
    there, read = set(map(str, names)), {str(names[column]) for column in np.flatnonzero(readable)}
    reasons: dict[str, list[str]] = {}
    for name in refused:
        reason = f"expressed in fewer than {FEWEST_CELLS} cells"
        if name not in read:
            reason = "in the data but not read by the model, or no gene" if name in there else "not in the data"
        reasons.setdefault(reason, []).append(name)
    return "; ".join(
        f"{len(some):,} of {n_wanted:,} genes ({', '.join(map(repr, some[:5]))}{', …' if len(some) > 5 else ''}) "
        f"{'is' if len(some) == 1 else 'are'} {reason}"
        for reason, some in reasons.items()
    )
