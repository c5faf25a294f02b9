"""A column of `obs` over many sources as numbers that mean the same everywhere."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import CorpusError, require
from .cell_source import CategoricalColumn, CellSource

if TYPE_CHECKING:
    from pandas import DataFrame

_PLACEHOLDERS = {"", "nan", "NaN", "NA", "N/A", "<NA>", "None", "NaT", "null"}
"""What missing values become where they are written as text."""


def _is_value(text: str) -> bool:
    """Whether a text is a value, and none that usually stands for a missing one."""
    return text not in _PLACEHOLDERS


def number_categories(
    name: str | Sequence[str],
    sources: Sequence[CellSource],
    rows: Sequence[np.ndarray | None],
    names: Sequence[str] | None,
) -> tuple[list[str], list[np.ndarray]]:
    """Number the values of a column.

    Args:
        name: name of the column; or one per source.
        sources: the sources.
        rows: the rows used of each; None = all.
        names: the values in the order of their numbers; None = those of the cells used, sorted.

    Returns:
        The values in the order of their numbers, and for each source the numbers of the cells used, in the smallest
        integer type that holds them.

    Raises:
        CorpusError: a source lacks the column, or a cell used has no value, one that stands for none, or one that is
            not among `names`.
    """
    called = _per_source(name, sources)
    columns = [labelled_column(*one) for one in zip(sources, called, rows, strict=True)]
    present = [values_of(column) for column in columns]
    if names is None:
        for source, column_name, values in zip(sources, called, present, strict=True):
            _refuse_placeholders(column_name, source, values & _PLACEHOLDERS)
    names = sorted(set().union(*present)) if names is None else [str(value) for value in names]
    numbers = {value: number for number, value in enumerate(names)}
    if len(numbers) < len(names):
        raise CorpusError(f"The names given for `obs[{called[0]!r}]` hold one twice: {names}.")
    dtype = np.min_scalar_type(-len(names) - 1)
    codes = []
    for source, column_name, column, values in zip(sources, called, columns, present, strict=True):
        if not values <= set(numbers):
            unknown = sorted(values - set(numbers))
            raise CorpusError(
                f"`{source.location}`: `obs[{column_name!r}]` holds {unknown[:10]}, not among the {len(names)} names "
                "given: leave these cells out (`--where`, in Python `where` or `rows`), or in Python add the names."
            )
        codes.append(numbers_of(column, numbers, dtype))
    return names, codes


def numbers_of(column: CategoricalColumn, numbers: Mapping[str, int], dtype: type | np.dtype = np.int64) -> np.ndarray:
    """(cells,) the numbers of the values of a column in which no cell lacks one."""
    table = np.array([numbers.get(value, -1) for value in column.categories], dtype)
    return table[column.codes] if len(table) else np.empty(0, dtype)


def drop_unlabelled(
    sources: Sequence[CellSource],
    rows: Sequence[np.ndarray | None],
    columns: Sequence[str | Sequence[str]],
    is_label: Callable[[str], bool] = _is_value,
) -> tuple[list[np.ndarray | None], dict[str, int]]:
    """Leave out the cells that have no value, or a text that is no label, in one of `columns`.

    Args:
        sources: the sources.
        rows: the rows used of each, ascending; None = all.
        columns: columns of `obs`, each by one name or by one per source.
        is_label: whether a text is a label; by default those are that do not usually stand for a missing value.

    Returns:
        The rows kept of each source, and source name -> how many cells were left out.

    Raises:
        CorpusError: a source lacks a column.
    """
    kept, dropped = [], {}
    called = zip(*(_per_source(name, sources) for name in columns), strict=True)
    for source, used, names in zip(sources, rows, called, strict=True):
        numbers = np.arange(source.n_cells) if used is None else used
        labelled = np.ones(len(numbers), bool)
        for name in names:
            column = source.column(name)
            # the last place is that of the code -1
            has_value = np.array([is_label(category) for category in column.categories] + [False])
            labelled &= has_value[column.codes[numbers]]
        source.close()
        dropped[source.name] = int((~labelled).sum())
        kept.append(numbers[labelled] if dropped[source.name] else used)
    return kept, dropped


def _per_source(name: str | Sequence[str], sources: Sequence[CellSource]) -> Sequence[str]:
    return [name] * len(sources) if isinstance(name, str) else name


def _refuse_placeholders(name: str, source: CellSource, found: set[str]) -> None:
    """Refuse to make a class of its own of the cells without a value."""
    if found:
        raise CorpusError(
            f"`{source.location}`: some of the cells used have {sorted(found)} in `obs[{name!r}]`, which usually "
            f"stands for no value: leave them out (labels with `--unlabelled drop`, `unlabelled='drop'` in Python; "
            f"others with `adata[~adata.obs[{name!r}].isin({sorted(found)})]`), or give them a value; if it is one, "
            "rename it, or list the names of all values in Python."
        )


def labelled_column(source: CellSource, name: str, rows: np.ndarray | None = None) -> CategoricalColumn:
    """A column of `obs` in which every cell has a value.

    Args:
        source: the source.
        name: name of the column.
        rows: the rows used of it; None = all.

    Raises:
        CorpusError: the source lacks the column, or a cell used has no value.
    """
    column = source.column(name)
    source.close()
    codes = column.codes if rows is None else column.codes[rows]
    missing = int((codes < 0).sum())
    if missing:
        raise CorpusError(
            f"`{source.location}`: {missing:,} of {len(codes):,} cells have no value in `obs[{name!r}]`: leave them "
            f"out, `adata[adata.obs[{name!r}].notna()]` (labels with `--unlabelled drop`, `unlabelled='drop'` in "
            "Python), or give them one."
        )
    return CategoricalColumn(codes, column.categories)


def values_of(column: CategoricalColumn) -> set[str]:
    """The different values that cells of a column have."""
    return {column.categories[code] for code in np.unique(column.codes)}


def frame_of(source: CellSource) -> "DataFrame":
    """All columns of a source as categories, with the names of the cells as its index.

    Raises:
        CorpusError: as for `column` and `obs_names` of the source.
    """
    pandas = require("pandas", extra="anndata")
    columns = {name: source.column(name) for name in source.column_names()}
    table = {name: pandas.Categorical.from_codes(one.codes, list(one.categories)) for name, one in columns.items()}
    return pandas.DataFrame(table, index=source.obs_names())
