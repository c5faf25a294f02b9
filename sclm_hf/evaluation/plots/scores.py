"""Training, and methods beside one another."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .drawing import COLORS, MARKERS, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MOST_POINTS = 50
"""Curves of more points are drawn pale, with their running mean on top."""


MOST_PANELS = 4
"""Panels of methods side by side."""


WIDE_RANGE = 8.0
"""Losses that fall by more than this factor are drawn on a logarithmic scale."""


def plot_training(
    history: Sequence[Mapping[str, Any]], path: str | Path | None = None, *, title: str
) -> "Sequence[Axes]":
    """Losses against optimiser steps; beside them, where it was evaluated, the macro-F1 of a probe.

    Args:
        history: records of the log of a run, as `TrainingResult.history` has them.
        path: image to write; the suffix says in which format. None writes none.
        title: title of the plot.

    Returns:
        Its axes, one or two.
    """
    probe = _curve(history, "eval_probe_macro_f1")
    n_panels = 2 if len(probe[0]) else 1
    figure, panels = new_figure(4.6 * n_panels, 3.2, title, n_panels)
    losses, validation = _curve(history, "loss"), _curve(history, "eval_loss")
    _draw_losses(panels[0], losses, "training", COLORS[0])
    if len(validation[0]):
        panels[0].plot(*validation, marker="o", markersize=4, color=COLORS[2], label="validation")
    values = np.concatenate([losses[1], validation[1]])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() / values.min() > WIDE_RANGE:
        panels[0].set_yscale("log")
    panels[0].set(xlabel="optimiser step", ylabel="loss")
    panels[0].legend(frameon=False, fontsize=8)
    for axes in panels:
        axes.xaxis.get_major_locator().set_params(integer=True)
    if n_panels == 2:
        panels[1].plot(*probe, marker="o", markersize=4, color=COLORS[4])
        panels[1].set(xlabel="optimiser step", ylabel="macro-F1 of a probe", ylim=(0, 1))
    if path is not None:
        save_figure(figure, path)
    return panels


def _curve(history: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the records that have one."""
    found = [(record["step"], record[name]) for record in history if record.get(name) is not None]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.asarray(steps), np.asarray(values, dtype=float)


def _draw_losses(axes: Any, curve: tuple[np.ndarray, np.ndarray], name: str, color: str) -> None:
    steps, losses = curve
    if len(losses) <= MOST_POINTS:
        axes.plot(steps, losses, color=color, marker="." if len(losses) < 5 else None, label=name)
        return
    width = len(losses) // 20
    axes.plot(steps, losses, alpha=0.3, linewidth=0.8, color=color)
    smooth = np.convolve(losses, np.full(width, 1 / width), mode="valid")
    # each record is the mean of the steps since the one before
    n_steps = width * round((steps[-1] - steps[0]) / (len(steps) - 1))
    # a mean stands in the middle of its steps: at their end it would lag behind the curve
    middle = steps[(width - 1) // 2 :][: len(smooth)]
    axes.plot(middle, smooth, color=color, label=f"{name}, mean of {n_steps} steps")


def plot_methods(panels: Mapping[str, Sequence[tuple[str, float, float, float]]], xlabel: str) -> "Sequence[Axes]":
    """A row for each method: its mean and its interval; the first is dotted through all rows.

    Args:
        panels: title -> (method, mean, low, high) of each method; a method has the same row in all panels, which is
            empty where a panel lacks it.
        xlabel: what is measured.

    Returns:
        The axes of the panels.
    """
    n_columns = min(len(panels), MOST_PANELS)
    longest_first = sorted(panels.values(), key=len, reverse=True)
    methods = list(dict.fromkeys(row[0] for rows in longest_first for row in rows))
    n_rows = -(-len(panels) // n_columns)
    width = 0.5 + 0.066 * max(map(len, methods)) + 2.5 * n_columns
    figure, axes = new_figure(width, (1.2 + 0.3 * len(methods)) * n_rows, "", n_columns, n_rows)
    for one in axes[len(panels) :]:
        one.set_axis_off()
    for place, (one, (title, rows)) in enumerate(zip(axes, panels.items(), strict=False)):
        names, means, lows, highs = zip(*rows, strict=True)
        y = [methods.index(name) for name in names]
        one.axvline(means[0], linestyle=":", color=COLORS[3])
        one.hlines(y, lows, highs, color=COLORS[0], linewidth=2)
        one.plot(means, y, "o", color=COLORS[0], markersize=5)
        one.set_ylim(len(methods) - 0.5, -0.5)
        one.set_yticks(np.arange(len(methods)), [""] * len(methods) if place % n_columns else methods, fontsize=8)
        one.set_title("\n".join(textwrap.wrap(title, 30)), fontsize=9, loc="left")
        one.xaxis.get_major_locator().set_params(nbins=4)
    figure.supxlabel(xlabel, fontsize=9)
    return axes[: len(panels)]


def plot_lines(panels: Mapping[tuple[str, str], Mapping[str, np.ndarray]], *, log: bool = False) -> "Sequence[Axes]":
    """A panel for each pair of axis titles, with a line for each method, and its interval as a band.

    Args:
        panels: (title of x, title of y) -> method -> (2 or 4, points) x, y and, if known, lower and upper ends.
        log: whether both axes are logarithmic.

    Returns:
        The axes of the panels.
    """
    _, axes = new_figure(0.6 + 3.8 * len(panels), 3.6, "", len(panels))
    for one, ((xlabel, ylabel), lines) in zip(axes, panels.items(), strict=True):
        for place, (name, values) in enumerate(lines.items()):
            x, y, *ends = np.asarray(values, float)
            style = {"color": COLORS[place % 10], "marker": MARKERS[place % 10], "markersize": 4}
            one.plot(x, y, label=name, **style)
            if ends:
                one.fill_between(x, *ends, color=style["color"], alpha=0.2, linewidth=0)
        one.set(xlabel=xlabel, ylabel=ylabel)
        if log:
            one.set(xscale="log", yscale="log")
        one.legend(frameon=False, fontsize=7)
    return axes


def plot_integration(scores: Mapping[str, Any], *, axes: "Axes | None" = None) -> "Axes":
    """The scores of integrated embeddings, one row for each embedding, the numbers written in.

    Args:
        scores: the columns that `evaluate` gives for embeddings: `embedding`, and one for each score.
        axes: where to draw; by default a new figure.

    Returns:
        The axes. Dark is better; lines part what stays of biology, how batches mix, and the means.
    """
    names = [name for name in scores if name != "embedding"]
    values = np.array([scores[name] for name in names], float).T
    axes = new_figure(1.6 + 0.62 * len(names), 1.4 + 0.36 * len(values), "", 1)[1][0] if axes is None else axes
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(*values.shape):
        color = "white" if values[row, column] > 0.55 else "black"
        number = f"{values[row, column]:.2f}" if np.isfinite(values[row, column]) else "–"
        axes.text(column, row, number, ha="center", va="center", color=color, fontsize=7)
    for name in ("asw_batch", "biology"):
        if name in names:
            axes.axvline(names.index(name) - 0.5, color="black", linewidth=1)
    labels = [name.replace("_", " ") for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(values)), list(scores["embedding"]))
    return axes
