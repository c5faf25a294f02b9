"""Tables, sentences and figures that several experiments have."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..evaluation.metrics import Predictions
from ..evaluation.plots import plot_methods
from ..evaluation.reports import Result, ResultsTable, compare
from .experiment import Page, Table


def annotation_page(found: Mapping[str, Mapping[int, dict[str, Any]]], reference: str) -> Page:
    """A table for each setting: macro-F1 and accuracy of each method, and its paired difference to the reference."""
    page, panels = Page([], [], {}, {}), {}
    for setting, seeds in found.items():
        results = compared(seeds, reference)
        table = ResultsTable(setting, "see below", "cell type annotation", results, tuple(seeds))
        head, rows = table.rows()
        page.tables.append(Table(setting, head, rows, table.caption()))
        page.answers.append(f"{setting}, macro-F1: {verdict(results, reference)}")
        page.numbers[setting] = [asdict(one) for one in results]
        panels[setting] = [
            (one.method, one.mean, one.low, one.high)
            for one in results
            if one.metric == "macro_f1" and one.reference is None
        ]
    figure = plot_methods(panels, "macro-F1 with 95 % interval over cells")[0].figure
    page.figures["macro_f1"] = (figure, f"Macro-F1 of each method; the dotted line is {reference}.")
    return page


def compared(seeds: Mapping[int, dict[str, Any]], reference: str) -> list[Result]:
    """Scores of methods over the seeds, the reference first, then paired differences to it."""
    methods: dict[str, list[Predictions]] = {}
    for seed, one in seeds.items():
        for name, predicted in one["predicted"].items():
            split = Predictions(f"seed {seed}", np.array(one["cells"]), np.array(one["true"]), np.array(predicted))
            methods.setdefault(name, []).append(split)
    ordered = {reference: methods[reference], **methods}
    return compare(ordered, reference=reference, metrics=["macro_f1", "accuracy"])


def verdict(results: Sequence[Result], reference: str) -> str:
    """A sentence about the paired differences of macro-F1 to the reference."""
    found = [one for one in results if one.reference and one.metric == "macro_f1"]
    return told({f"{one.method} ({one.mean:+.2f})": (one.low, one.high) for one in found}, reference)


def told(gains: Mapping[str, tuple[float, float]], reference: str) -> str:
    """Which gains over a reference have a range above 0, around it, or below it."""
    groups = {
        "better than": [name for name, (low, _) in gains.items() if low > 0],
        "not told apart from": [name for name, (low, high) in gains.items() if low <= 0 <= high],
        "worse than": [name for name, (_, high) in gains.items() if high < 0],
    }
    return "; ".join(f"{what} {reference}: {', '.join(names)}" for what, names in groups.items() if names) + "."


SCORES = ("total", "biology", "mixing", "ari", "asw_label", "ilisi", "kbet")


def scores_page(found: Mapping[str, Mapping[int, dict[str, Any]]], reference: str) -> Page:
    """A table for each setting: the mean scores of each embedding over seeds, and `total`'s difference to one."""
    page, panels = Page([], [], {}, {}), {}
    for setting, seeds in found.items():
        runs = [one["scores"] for one in seeds.values()]
        totals = {name: [one[name]["total"] for one in runs] for name in runs[0]}
        gains = {name: np.subtract(values, totals[reference]) for name, values in totals.items()}
        rows = []
        for name in runs[0]:
            means = [f"{np.nanmean([one[name][score] for one in runs]):.3f}" for score in SCORES]
            rows.append([name, _ranged(gains[name]) if name != reference else "", *means])
        note = f"Means over {len(runs)} seeds; in brackets the lowest and the highest of them."
        page.tables.append(Table(setting, ["embedding", f"total minus {reference}", *SCORES], rows, note))
        ranges = {
            f"{name} ({one.mean():+.2f})": (one.min(), one.max()) for name, one in gains.items() if name != reference
        }
        page.answers.append(f"{setting}, total score, with all seeds: {told(ranges, reference)}")
        page.numbers[setting] = runs
        panels[setting] = [(name, np.mean(one), min(one), max(one)) for name, one in totals.items()]
    figure = plot_methods(panels, "total score, mean and range over seeds")[0].figure
    page.figures["total"] = (
        figure,
        "Total score of each embedding, mean and range over seeds; dotted: the first row.",
    )
    return page


def _ranged(values: np.ndarray) -> str:
    return f"{np.mean(values):+.3f} ({np.min(values):+.3f} to {np.max(values):+.3f})"
