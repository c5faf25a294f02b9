"""Some genes of a source, as if it had no others."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from ..errors import ConfigurationError
from ..tokenization.encodings.scratch import Scratch
from .cell_source import CellSource


class GeneSubset:
    """A `CellSource` with some of the genes of another one; its cells and their columns are those of the other.

    Args:
        whole: the other source.
        genes: names or Ensembl ids of the genes.
        setting: what names them, for messages.

    Attributes:
        whole: the other source.
        columns: (n_genes,) ascending columns there.

    Raises:
        ConfigurationError: the source lacks one of the genes.
    """

    def __init__(self, whole: CellSource, genes: Sequence[str], *, setting: str) -> None:
        names, ensembl_ids = whole.genes()
        wanted, known = set(genes), [names] if ensembl_ids is None else [names, ensembl_ids]
        if lacking := sorted(wanted - {str(name) for some in known for name in some}):
            raise ConfigurationError(
                f"{setting}: {len(lacking):,} of {len(wanted):,} genes are not in `{whole.location}`, such as "
                f"{', '.join(map(repr, lacking[:5]))}: give names or Ensembl ids as they stand there."
            )
        is_wanted = [any(str(name) in wanted for name in one) for one in zip(*known, strict=True)]
        self.whole, self.columns = whole, np.flatnonzero(is_wanted)
        self.n_genes = len(self.columns)

    def __getattr__(self, name: str) -> Any:
        # while it is unpickled there is no other source yet
        if name.startswith("__") or name == "whole":
            raise AttributeError(name)
        return getattr(self.whole, name)

    def genes(self) -> tuple[Sequence[str], Sequence[str] | None]:
        """(n_genes,) names of the columns and their Ensembl ids or None."""
        names, ensembl_ids = self.whole.genes()
        ids = None if ensembl_ids is None else [ensembl_ids[column] for column in self.columns]
        return [names[column] for column in self.columns], ids

    def read(self, rows: np.ndarray, scratch: Scratch | None = None) -> csr_matrix:
        """Read cells; see `CellSource`."""
        return self.whole.read(rows, scratch)[:, self.columns]

    def empty_rows(self) -> np.ndarray:
        """None are known."""
        return np.empty(0, np.int64)

    @contextmanager
    def stored_rows(self) -> Iterator[None]:
        """Always None: rows of a file hold all genes."""
        yield None
