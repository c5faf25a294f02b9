"""Tables of results that say how they were measured; as JSON for machines, markdown and rich for people."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, require
from ..files import read_json_object, write_text
from ..logging import counted
from .metrics import METRICS, Predictions, difference, estimate

if TYPE_CHECKING:
    from rich.table import Table

_METRIC_TITLES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


@dataclass(frozen=True)
class Result:
    """One number and how sure it is.

    Attributes:
        method: what was measured, for example `"scGPT + LoRA"`.
        metric: a name of `metrics.METRICS`.
        mean: mean over the splits.
        low: lower end of the bootstrap interval.
        high: upper end of the bootstrap interval.
        per_split: the score of every split, in order.
        splits: names of the splits.
        n_cells: different cells tested.
        level: coverage of the interval.
        reference: for a paired difference, the method that was subtracted; None for a plain score.
        unit: what the bootstrap drew, a name of `metrics.UNITS`.
    """

    method: str
    metric: str
    mean: float
    low: float
    high: float
    per_split: tuple[float, ...]
    splits: tuple[str, ...]
    n_cells: int
    level: float = 0.95
    reference: str | None = None
    unit: str = "cells"

    @property
    def text(self) -> str:
        """`0.812 (0.779-0.846)`; a difference carries its sign."""
        sign = "+" if self.reference else ""
        return f"{self.mean:{sign}.3f} ({self.low:{sign}.3f} to {self.high:{sign}.3f})"


@dataclass
class ResultsTable:
    """Results of several methods on the same splits of one data set.

    Attributes:
        dataset: name of the data set.
        dataset_version: what pins its content, for example `"scanpy 1.11.5"`.
        task: what was asked, for example `"cell type annotation"`.
        results: one entry per method and metric, differences included.
        seeds: seeds of the training runs.
        versions: version of every package that took part.
        notes: what a reader has to know to judge the numbers.
        dataset_id: id of the data set on the Hub, where it is there.
    """

    dataset: str
    dataset_version: str
    task: str
    results: list[Result]
    seeds: tuple[int, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    dataset_id: str | None = None

    def save(self, path: str | Path) -> None:
        """Write the table as JSON."""
        write_text(path, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "ResultsTable":
        """Read what `save` wrote.

        Raises:
            ConfigurationError: the file is not such a table.
        """
        content = read_json_object(Path(path), ConfigurationError)
        try:
            return cls.from_dict(content)
        except (KeyError, TypeError) as error:
            raise ConfigurationError(f"`{path}` is not a results table written by `ResultsTable.save`.") from error

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "ResultsTable":
        """The table that `dataclasses.asdict` turned into `content`."""
        results = [
            Result(**{**one, "per_split": tuple(one["per_split"]), "splits": tuple(one["splits"])})
            for one in content["results"]
        ]
        return cls(**{**content, "results": results, "seeds": tuple(content["seeds"])})

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows as text: one row per method, one column per metric and unit of the bootstrap."""
        columns = list(dict.fromkeys((one.metric, one.unit) for one in self.results))
        methods = list(dict.fromkeys((one.method, one.reference) for one in self.results))
        cells = {(one.method, one.reference, one.metric, one.unit): one.text for one in self.results}
        header = ["method", *(_title(metric, unit) for metric, unit in columns)]
        titles = {key: f"{key[0]} minus {key[1]}" if key[1] else key[0] for key in methods}
        return header, [[titles[key], *(cells.get((*key, *column), "") for column in columns)] for key in methods]

    def caption(self) -> str:
        """How the numbers came about, in one sentence."""
        first, units = self.results[0], {one.unit for one in self.results}
        over = {"cells": f"{counted(first.n_cells, 'cell')} tested", "splits": "the splits, where the column says so"}
        drawn = ", or ".join(text for unit, text in over.items() if unit in units)
        return (
            f"Mean over {len(first.splits)} splits of {self.dataset} ({self.dataset_version}), "
            f"{first.level:.0%} bootstrap interval over {drawn}."
        )

    def to_markdown(self) -> str:
        """A markdown table with its caption and notes."""
        header, rows = self.rows()
        lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        notes = ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join([*lines, "", self.caption(), *notes])

    def to_rich(self) -> "Table":
        """A `rich` table to print."""
        rich_table = require("rich.table", extra="cli")
        header, rows = self.rows()
        table = rich_table.Table(title=f"{self.task}: {self.dataset}", caption=self.caption(), caption_justify="left")
        for name in header:
            table.add_column(name, justify="left" if name == "method" else "right", no_wrap=name != "method")
        for row in rows:
            table.add_row(*row)
        return table


def _title(metric: str, unit: str) -> str:
    title = _METRIC_TITLES.get(metric, metric)
    return title if unit == "cells" else f"{title}, interval over {unit}"


def compare(
    methods: dict[str, Sequence[Predictions]],
    *,
    reference: str | None = None,
    metrics: Sequence[str] = METRICS,
    units: Sequence[str] = ("cells",),
) -> list[Result]:
    """Score every method; then its paired difference to `reference`.

    Args:
        methods: name -> predictions, one entry a split, all on the same splits.
        reference: the method that the others are compared with; None for no differences.
        metrics: names of `metrics.METRICS`.
        units: names of `metrics.UNITS`: what the bootstraps draw; each gives results of its own.

    Raises:
        ConfigurationError: `reference` is not one of the methods, or methods were tested on different cells.
    """
    if reference is not None and reference not in methods:
        raise ConfigurationError(f"`reference` {reference!r} is not one of the methods {list(methods)}.")
    results = []
    for method, predictions in methods.items():
        splits = tuple(one.split for one in predictions)
        for metric, unit in itertools.product(metrics, units):
            scored = asdict(estimate(predictions, metric, unit=unit))
            results.append(Result(method, metric, splits=splits, **scored))
    for method, predictions in methods.items():
        if reference is None or method == reference:
            continue
        splits = tuple(one.split for one in predictions)
        for metric, unit in itertools.product(metrics, units):
            paired = asdict(difference(predictions, methods[reference], metric, unit=unit))
            results.append(Result(method, metric, splits=splits, reference=reference, **paired))
    return results
