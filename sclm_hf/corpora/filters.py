"""Which cells of its sources a corpus uses, said as data: conditions on `obs`, and the side of a split."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigurationError, CorpusError
from ..sources.cell_source import CategoricalColumn, CellSource
from .order.splits import Split

_OPERATORS = {"in", "not", "min", "max"}


def filter_rows(
    sources: Sequence[CellSource],
    rows: Sequence[np.ndarray | None],
    *,
    where: Mapping[str, Any] | None = None,
    split: Split | None = None,
) -> tuple[list[np.ndarray | None], dict[str, dict[str, int]]]:
    """Keep the cells that meet all conditions and stand on the right side of the split.

    Args:
        sources: the sources.
        rows: the rows used of each, ascending; None = all.
        where: column of `obs` -> a value, a list of values, or a mapping with some of `in` and `not` (a value or a
            list) and `min` and `max` (numbers, both included). Values are compared as text. A cell without a value
            meets no condition.
        split: the side of a split to keep.

    Returns:
        The rows of each source, and source name -> column -> how many cells this condition took from those that the
        conditions before it had left. Cells on the other side of the split are not counted.

    Raises:
        ConfigurationError: a condition is none.
        CorpusError: a source lacks a column, a column compared with numbers holds none, or a cell has no value to be
            split by.
    """
    conditions = {str(column): _checked(column, condition) for column, condition in (where or {}).items()}
    kept: list[np.ndarray | None] = []
    dropped: dict[str, dict[str, int]] = {}
    for source, used in zip(sources, rows, strict=True):
        dropped[source.name] = {}
        for name, condition in conditions.items():
            column = source.column(name)
            numbers = np.arange(source.n_cells) if used is None else used
            used = numbers[_meets(column, condition, f"`{source.location}`: `obs[{name!r}]`")[column.codes[numbers]]]
            dropped[source.name][name] = len(numbers) - len(used)
        kept.append(used if split is None else split.rows(source, used))
        if conditions or split is not None:
            source.close()
    return kept, dropped


def read_conditions(texts: Sequence[str]) -> dict[str, Any]:
    """Conditions, as [`filter_rows`] takes them, from a command line.

    Args:
        texts: `COLUMN=VALUE`, repeated for more values or columns; or one mapping as JSON.

    Raises:
        ConfigurationError: a text is neither.
    """
    conditions: dict[str, Any] = {}
    for text in texts:
        column, mark, value = text.partition("=")
        if text.lstrip().startswith("{") and len(texts) == 1:
            try:
                return json.loads(text)
            except ValueError as error:
                raise ConfigurationError(f"`where` must be COLUMN=VALUE or a mapping in JSON: {error}.") from error
        if not mark:
            raise ConfigurationError(f"`where` must be COLUMN=VALUE, or a mapping in JSON, got `{text}`.")
        conditions.setdefault(column, []).append(value)
    return conditions


def _checked(column: str, condition: Any) -> dict[str, Any]:
    """A condition with its lists as sets of text."""
    if not isinstance(condition, Mapping):
        condition = {"in": condition}
    if not condition or not set(condition) <= _OPERATORS:
        raise ConfigurationError(
            f"`where[{column!r}]` is {dict(condition)}: expected a value, a list of values, or a mapping with some of "
            f"{sorted(_OPERATORS)}."
        )
    for bound in ("min", "max"):
        if not isinstance(condition.get(bound, 0), (int, float)):
            raise ConfigurationError(f"`where[{column!r}][{bound!r}]` must be a number, got {condition[bound]!r}.")
    return {key: _texts(value) if key in ("in", "not") else value for key, value in condition.items()}


def _texts(values: Any) -> set[str]:
    several = isinstance(values, Iterable) and not isinstance(values, (str, bytes))
    return {str(value) for value in (values if several else [values])}


def _meets(column: CategoricalColumn, condition: Mapping[str, Any], name: str) -> np.ndarray:
    """(categories + 1,) whether a value meets a condition; the last one is for cells without value."""
    categories = column.categories
    meets = np.ones(len(categories) + 1, bool)
    meets[-1] = False
    if "in" in condition:
        meets[:-1] &= [value in condition["in"] for value in categories]
    if "not" in condition:
        meets[:-1] &= [value not in condition["not"] for value in categories]
    if "min" in condition or "max" in condition:
        try:
            numbers = np.array([float(value) for value in categories])
        except ValueError as error:
            raise CorpusError(f"{name} cannot be compared with a number: {error}.") from error
        meets[:-1] &= (numbers >= condition.get("min", -np.inf)) & (numbers <= condition.get("max", np.inf))
    return meets
