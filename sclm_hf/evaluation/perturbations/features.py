"""What is known about genes beforehand: one vector for each, by which unseen perturbations are told from seen ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigurationError, require
from ...files import require_regular_file
from ..baselines.linear import principal_axes
from .screen import Screen

N_LOADINGS, MOST_CELLS = 10, 3000

Parts = tuple[str, ...]
"""Names of the genes that are perturbed together."""


@dataclass(frozen=True)
class GeneFeatures:
    """A vector for each of some genes.

    Attributes:
        names: (n_genes,) their names.
        vectors: (n_genes, size).
        source: where they come from.
    """

    names: tuple[str, ...]
    vectors: np.ndarray
    source: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "_row_of", {name: row for row, name in enumerate(self.names)})

    def __contains__(self, gene: str) -> bool:
        return gene in self._row_of

    def has(self, parts: Parts) -> bool:
        """Whether all genes of a perturbation have a vector."""
        return all(gene in self for gene in parts)

    def lacking(self, perturbations: Sequence[Parts]) -> list[str]:
        """Genes without a vector, sorted."""
        return sorted({gene for parts in perturbations for gene in parts if gene not in self})

    def of(self, perturbations: Sequence[Parts]) -> np.ndarray:
        """(n, size): the sum of the vectors of the genes that are perturbed together."""
        rows = [self.vectors[[self._row_of[gene] for gene in parts]].sum(axis=0) for parts in perturbations]
        return np.stack(rows) if rows else np.empty((0, self.vectors.shape[1]))

    def scaled(self) -> "GeneFeatures":
        """The same, centred and divided by one number, so that the mean square of the entries is 1."""
        centred = self.vectors - self.vectors.mean(axis=0)
        return GeneFeatures(self.names, centred / max(np.sqrt((centred**2).mean()), 1e-12), self.source)


def expression_loadings(screen: Screen, rows: np.ndarray, seed: int) -> GeneFeatures:
    """Loadings of the measured genes on the principal components of some cells.

    Args:
        screen: the cells.
        rows: numbers of those that may be looked at; at most `MOST_CELLS` of them are, drawn by `seed`.
        seed: the seed.
    """
    if len(rows) > MOST_CELLS:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:MOST_CELLS])
    loadings = principal_axes(screen.dense(rows).astype(np.float64), N_LOADINGS, seed)
    return GeneFeatures(screen.genes, loadings, "principal components of the expression")


def read_features(features: Any) -> GeneFeatures:
    """The vectors of a table.

    Args:
        features: a data frame indexed by names of genes; or a `.csv` or `.tsv` file with them in its first column.

    Raises:
        ConfigurationError: it cannot be read, a name occurs twice, or values are no finite numbers.
    """
    pandas = require("pandas", extra="anndata")
    source = "a table"
    if not isinstance(features, pandas.DataFrame):
        source, path = str(features), Path(features)
        require_regular_file(path, ConfigurationError)
        try:
            features = pandas.read_csv(path, sep="\t" if ".tsv" in path.name else ",", index_col=0)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"The features `{path}` cannot be read as a table: {error}.") from error
    names = features.index.astype(str)
    if names.has_duplicates:
        raise ConfigurationError(f"The features of {source} have the gene {names[names.duplicated()][0]!r} twice.")
    try:
        vectors = features.to_numpy(np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"The features of {source} are not all numbers: {error}.") from error
    if not vectors.size or not np.isfinite(vectors).all():
        raise ConfigurationError(f"The features of {source} must be finite numbers, one row per gene; some are not.")
    return GeneFeatures(tuple(names), vectors, source)
