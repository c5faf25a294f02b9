"""Results in the two forms the Hub reads: `model-index` in the card and `.eval_results/*.yaml`.

Both hold the results of the model itself; baselines stand beside them in the card's tables.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import require
from ..evaluation.reports import Result, ResultsTable
from ..files import write_text
from ..logging import counted

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, EvalResultEntry

# the Hub knows macro-F1 as the metric `f1` with `average=macro`
_HUB_METRICS = {"accuracy": ("accuracy", "Accuracy", {}), "macro_f1": ("f1", "Macro-F1", {"average": "macro"})}


def to_model_index(tables: Sequence[ResultsTable], method: str | None) -> list["EvalResult"]:
    """The scores of `method` as entries of the card's `model-index`."""
    from huggingface_hub import EvalResult

    entries = []
    for table, result in _scores(tables, method):
        metric_type, metric_name, arguments = _HUB_METRICS[result.metric]
        entries.append(
            EvalResult(
                task_type=_slug(table.task),
                task_name=table.task,
                dataset_type=_slug(table.dataset),
                dataset_name=f"{table.dataset} ({table.dataset_version})",
                metric_type=metric_type,
                metric_name=metric_name,
                metric_value=result.mean,
                metric_args={**arguments, **_interval(result)},
            )
        )
    return entries


def to_entries(tables: Sequence[ResultsTable], method: str | None) -> list["EvalResultEntry"]:
    """The scores of `method` as entries of `.eval_results/*.yaml`.

    The Hub shows those whose `dataset_id` is one of its benchmark data sets; the others are kept as a record.
    """
    from huggingface_hub import EvalResultEntry

    return [
        EvalResultEntry(
            dataset_id=table.dataset_id or _slug(table.dataset),
            task_id=task_id(table.task, result.metric),
            value=result.mean,
            notes=(
                f"{result.metric}, mean over {', '.join(result.splits)}; {result.level:.0%} bootstrap interval "
                f"{result.low:.4f} to {result.high:.4f} over {counted(result.n_cells, 'cell')}; "
                f"{table.dataset_version}"
            ),
        )
        for table, result in _scores(tables, method)
    ]


def task_id(task: str, metric: str) -> str:
    """What a task is called where the Hub gathers its scores; `eval.yaml` of a benchmark names it in the same way."""
    return f"{_slug(task)}_{metric}"


def write_evaluation_results(tables: Sequence[ResultsTable], method: str | None, folder: str | Path) -> None:
    """Write one `.eval_results/<data set>.yaml` a data set into `folder`."""
    from huggingface_hub import eval_result_entries_to_yaml

    yaml = require("yaml", extra="hub")
    entries: dict[str, list[EvalResultEntry]] = {}
    for entry in to_entries(tables, method):
        entries.setdefault(entry.dataset_id, []).append(entry)
    for dataset_id, of_dataset in entries.items():
        path = Path(folder) / ".eval_results" / f"{_slug(dataset_id)}.yaml"
        content = yaml.safe_dump(eval_result_entries_to_yaml(of_dataset), sort_keys=False, allow_unicode=True)
        write_text(path, content)


def _scores(tables: Sequence[ResultsTable], method: str | None) -> list[tuple[ResultsTable, Result]]:
    return [
        (table, result)
        for table in tables
        for result in table.results
        if result.method == method and result.reference is None
    ]


def _interval(result: Result) -> dict:
    return {
        "interval": [result.low, result.high],
        "level": result.level,
        "splits": list(result.splits),
        "n_cells": result.n_cells,
    }


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.").lower()
