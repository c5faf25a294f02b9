"""Training and validation cells, told apart by the name of their donor or data set alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import ConfigurationError, CorpusError
from ..sources.cell_source import CellSource
from ..tokenization.encodings.keys import hash_names

DATASET = "dataset"
"""`Split.by` for a split by the name of the source."""

_SALT = "sclm_hf split 1"


def in_validation(names: Sequence[str], share: float) -> np.ndarray:
    """(names,) bool: which names belong to the validation side; those of a smaller share are among those of a larger.

    A pure function of the name: a donor stays on its side whatever else is in the corpus, in every version.
    """
    hashes = hash_names([f"{_SALT}/{name}" for name in names])
    return (hashes >> np.uint64(11)).astype(np.float64) / 2.0**53 < share


@dataclass(frozen=True)
class Split:
    """One side of a split.

    Attributes:
        side: `"train"` or `"validation"`.
        by: column of `obs` whose values stay together, for example the donor, or `"dataset"` for the source's name.
        validation_share: expected share of the names on the validation side.

    Raises:
        ConfigurationError: there is no such side, nothing to split by, or the share is not between 0 and 1.
    """

    side: Literal["train", "validation"]
    by: str
    validation_share: float = 0.1

    def __post_init__(self) -> None:
        if self.side not in ("train", "validation"):
            raise ConfigurationError(f"`split` must be 'train' or 'validation', got {self.side!r}.")
        if not self.by:
            raise ConfigurationError("A split needs `split_by`: a column of `obs`, such as the donor, or 'dataset'.")
        if not 0 < self.validation_share < 1:
            raise ConfigurationError(f"`validation_share` must lie between 0 and 1, got {self.validation_share}.")

    @classmethod
    def asked_for(cls, side: str | None, by: str | None, validation_share: float) -> "Split | None":
        """The split that a user describes, None for none.

        Raises:
            ConfigurationError: the description is incomplete.
        """
        if side is None and by is not None:
            raise ConfigurationError(f"`split_by={by!r}` needs `split='train'` or `split='validation'` beside it.")
        return None if side is None else cls(side, by or "", validation_share)

    def rows(self, source: CellSource, rows: np.ndarray | None) -> np.ndarray | None:
        """Those of `rows` (None = all) of a source that stand on this side.

        Raises:
            CorpusError: the source lacks the column, or a cell has no value in it.
        """
        wanted = self.side == "validation"
        if self.by == DATASET:
            return rows if in_validation([source.name], self.validation_share)[0] == wanted else np.empty(0, np.int64)
        column = source.column(self.by)
        rows = np.arange(source.n_cells) if rows is None else rows
        codes = column.codes[rows]
        if (codes < 0).any():
            raise CorpusError(
                f"`{source.location}`: {(codes < 0).sum()} of the cells used have no value in `obs[{self.by!r}]`, so "
                "they are on no side of the split: leave them out with `where=`."
            )
        sides = in_validation(column.categories, self.validation_share)
        return rows[sides[codes] == wanted] if len(rows) else rows
