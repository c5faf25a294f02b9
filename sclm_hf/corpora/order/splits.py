"""Cells held out for evaluation: by the name of their donor or data set alone, whole samples, or at random."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...errors import ConfigurationError, CorpusError
from ...sources.cell_source import CellSource
from ...tokenization.encodings.keys import Stream, cell_keys, hash_names, uniforms_for
from .samples import Samples

DATASET = "dataset"
"""`Split.by` for a split by the name of the source."""

CELL = "cell"
"""What users say for cells held out at random."""

_GROUPS = (
    *("donorid", "donor", "patientid", "patient", "individual", "subjectid", "subject", "participant"),
    *("sampleid", "sample", "origident", "libraryid", "library", "batchid", "batch"),
)
"""What columns of donors, samples and batches are usually called, in small letters and digits alone."""

_SALT = "sclm_hf split 1"


def places(names: Sequence[str]) -> np.ndarray:
    """(names,) float64 in [0, 1): a name is on the validation side of every split whose share is above its place."""
    hashes = hash_names([f"{_SALT}/{name}" for name in names])
    return (hashes >> np.uint64(11)).astype(np.float64) / 2.0**53


def in_validation(names: Sequence[str], share: float) -> np.ndarray:
    """(names,) bool: which names belong to the validation side; those of a smaller share are among those of a larger.

    A pure function of the name: a donor stays on its side whatever else is in the corpus, in every version.
    """
    return places(names) < share


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


def hold_out(sizes: Mapping[str, int], share: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Which cells of each source are held out; a pure function of source name, row and seed.

    Args:
        sizes: source name -> number of cells.
        share: expected share of the cells.
        seed: seed of the choice.

    Returns:
        Source name -> (cells,) bool.
    """
    masks = {}
    for name, n_cells in sizes.items():
        keys = cell_keys(np.arange(n_cells), seed=int(hash_names([name])[0]) ^ seed, epoch=0)
        masks[name] = uniforms_for(keys, Stream.HELD_OUT, 1)[:, 0] < share
    return masks


def hold_out_samples(samples: Samples, sizes: Mapping[str, int], share: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Which cells are held out where the cells of a sample stay together.

    Args:
        samples: the samples of all cells.
        sizes: source name -> number of cells, in the order of the sources.
        share: share of the samples, rounded; at least one is held out and one is not.
        seed: seed of the choice.

    Returns:
        Source name -> (cells,) bool.

    Raises:
        ConfigurationError: there is only one sample.
    """
    if len(samples) == 1:
        raise ConfigurationError(
            f"`eval_share` {share} would split the only sample, and the model sees the cells of a sample together: "
            "name with `batch_column` the column that tells samples apart, or give other samples as `eval_files`."
        )
    draws = uniforms_for(cell_keys(samples.ids, seed, 0), Stream.HELD_OUT, 1)[:, 0]
    count = min(max(round(share * len(samples)), 1), len(samples) - 1)
    masks = {name: np.zeros(n_cells, bool) for name, n_cells in sizes.items()}
    names = list(sizes)
    for number in np.argsort(draws, kind="stable")[:count]:
        masks[names[samples[number].source]][samples.rows_of(number)] = True
    return masks


def hold_out_groups(
    sources: Sequence[CellSource], rows: Sequence[np.ndarray], by: str, share: float
) -> dict[str, np.ndarray]:
    """Which cells are held out where the cells of a donor, or of a data set, stay together.

    Args:
        sources: the sources.
        rows: the rows used of each.
        by: see [`Split`].
        share: expected share of the names.

    Returns:
        Source name -> (cells,) bool.

    Raises:
        CorpusError: a source lacks the column, or a cell used has no value in it.
        ConfigurationError: all names are on the same side.
    """
    side, masks, names = Split("validation", by, share), {}, set()
    for source, used in zip(sources, rows, strict=True):
        masks[source.name] = np.zeros(source.n_cells, bool)
        masks[source.name][side.rows(source, used)] = True
        if len(used):
            names |= {source.name} if by == DATASET else set(_values(source, by, used))
    found = np.sort(places(sorted(names)))
    if not found[0] < share <= found[-1]:
        enough = f"an `eval_share` of {np.ceil(found[0] * 1000) / 1000:.3f} holds out the first"
        raise ConfigurationError(
            f"`eval_share` {share} holds out {'none' if share <= found[0] else 'all'} of the {len(names)} values of "
            f"`split_by` {by!r}, because the side of a value depends on its name alone: "
            f"{enough if len(names) > 1 else 'give others as `eval_files`'}."
        )
    return masks


def refuse_split_samples(
    samples: Samples, sources: Sequence[CellSource], held_out: Mapping[str, np.ndarray], by: str
) -> None:
    """Refuse to hold out some cells of a sample and not the others.

    Args:
        samples: the samples of all cells.
        sources: the sources.
        held_out: source name -> (cells,) bool.
        by: what was held out whole.

    Raises:
        ConfigurationError: a sample has cells of two values of `by` that stand on different sides.
    """
    for number, sample in enumerate(samples):
        sides = held_out[sources[sample.source].name][samples.rows_of(number)]
        if sides.any() and not sides.all():
            raise ConfigurationError(
                f"`split_by` {by!r} splits {sample.name}, and the model sees the cells of a sample together: name "
                "with `batch_column` a column whose samples each belong to one value of it, or leave `split_by` out."
            )


def shared_groups(
    sources: Sequence[CellSource],
    rows: Sequence[np.ndarray],
    held_out: Mapping[str, np.ndarray],
    *,
    leave_out: Sequence[str | None] = (),
) -> dict[str, tuple[int, int]]:
    """Donors, samples and batches with cells both among those held out and among the others.

    Args:
        sources: the sources.
        rows: the rows used of each.
        held_out: source name -> (cells,) bool.
        leave_out: columns that are not looked at.

    Returns:
        Column of `obs` that usually tells them apart -> how many of its values have cells on both sides, and how many
        it has in all, each source counted by itself; donors first. Columns with one value are left out, and those of
        which no value is shared.
    """
    counts: dict[str, np.ndarray] = {}
    for source, used in zip(sources, rows, strict=True):
        mask = held_out[source.name][used]
        for column in source.column_names():
            if _plain(column) in _GROUPS and column not in leave_out:
                codes = source.column(column).codes[used]
                ours, theirs = (np.unique(part[part >= 0]) for part in (codes[~mask], codes[mask]))
                both = len(np.intersect1d(ours, theirs))
                counts[column] = counts.get(column, 0) + np.array([both, len(np.union1d(ours, theirs))])
        source.close()
    ranked = sorted(counts, key=lambda column: (_GROUPS.index(_plain(column)), column))
    return {column: tuple(counts[column].tolist()) for column in ranked if counts[column][0] and counts[column][1] > 1}


def group_columns(sources: Sequence[CellSource], leave_out: Sequence[str | None]) -> list[str]:
    """Columns that all sources have and that usually tell donors, samples or batches apart, donors first."""
    shared = set.intersection(*(set(source.column_names()) for source in sources)) - set(leave_out)
    return sorted(
        (column for column in shared if _plain(column) in _GROUPS),
        key=lambda column: (_GROUPS.index(_plain(column)), column),
    )


def _plain(column: str) -> str:
    return "".join(filter(str.isalnum, column)).lower()


def _values(source: CellSource, column: str, rows: np.ndarray) -> list[str]:
    found = source.column(column)
    return [found.categories[code] for code in np.unique(found.codes[rows])]
