"""The pictures of a report: training, embeddings, confusions, effects, networks, explanations, tissue.

They are drawn without a display. Colours are those of Petroff's ten, which people with colour-blindness tell apart;
labels differ in shape as well.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigurationError, require
from .drawing import (
    COLORS,
    MARKERS,
    MISSING,
    in_order,
    new_figure,
    point_size,
    save_figure,
    texts_of,
    write_beside,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

NUMBERED = 10
"""With more labels than this, each has its number on its cells: colours return."""

LEGEND_ROWS = 24
"""Labels of a legend that stand below one another."""

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


def plot_confusion(
    matrix: np.ndarray,
    label_names: Sequence[str],
    path: str | Path | None = None,
    *,
    title: str,
    note: str = "",
    predicted_names: Sequence[str] | None = None,
) -> "Axes":
    """Share of each true label (rows) that was predicted as each label (columns), with the counts written in.

    Labels that are taken for one another stand side by side. On the right: how many cells were tested, and the recall.

    Args:
        matrix: (n_labels, n_labels) counts as `metrics.confusion_matrix` gives them; with `predicted_names`, as many
            columns as there are of these.
        label_names: names of the labels, in order.
        path: image to write; None writes none.
        title: title of the plot.
        note: a line under the title, such as how often each cell was tested.
        predicted_names: names of the columns where they are others than the labels; then there is no recall.

    Returns:
        The axes that were drawn on.
    """
    if predicted_names is None:
        rows = columns = order_of_labels(matrix)
        predicted_names = label_names
    else:
        rows = np.arange(len(matrix))
        columns = np.argsort((matrix / np.maximum(matrix.sum(axis=0), 1)).argmax(axis=0), kind="stable")
    is_square = rows is columns
    matrix, names = matrix[np.ix_(rows, columns)], [str(label_names[place]) for place in rows]
    predicted = [str(predicted_names[place]) for place in columns]
    longest = 0.07 * max(map(len, [*names, *predicted]))
    height = 1.4 + 0.4 * len(names) + longest + 0.3 * bool(note)
    figure, (axes,) = new_figure(3.0 + 0.4 * len(predicted) + longest, height, title)
    totals = matrix.sum(axis=1)
    shares = matrix / np.maximum(totals[:, None], 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        color = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, _short(int(matrix[row, column])), ha="center", va="center", color=color, fontsize=7)
        if is_square and row == column:
            axes.plot(*_SQUARE.T + row, color=COLORS[8], linewidth=0.6)
    tilt = {} if max(map(len, predicted)) <= 3 else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(predicted)), predicted, **tilt)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(False)
    written = [(40, "tested", [f"{int(total):,}" for total in totals])]
    if is_square:
        recalls = [f"{shares[row, row]:.2f}" if total else "–" for row, total in enumerate(totals)]
        written.append((76, "recall", recalls))
    for right, heading, column in written:
        style = {"textcoords": "offset points", "ha": "right", "annotation_clip": False, "fontsize": 7}
        axes.annotate(heading, (len(predicted) - 0.5, -0.5), xytext=(right, 6), va="bottom", weight="bold", **style)
        for row, text in enumerate(column):
            axes.annotate(text, (len(predicted) - 0.5, row), xytext=(right, 0), va="center", **style)
    if note:
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8)
    if path is not None:
        save_figure(figure, path)
    return axes


_SQUARE = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5]])
"""Corners of a field of a matrix."""


def _short(count: int) -> str:
    """A count that fits into its field: 98765 is 99k."""
    for size, unit in ((10**6, "M"), (10**3, "k")):
        if count >= 10 * size:
            return f"{round(count / size):,}{unit}"
    return str(count)


def order_of_labels(matrix: np.ndarray) -> np.ndarray:
    """(n_labels,) their numbers, those that are taken for one another side by side.

    Args:
        matrix: (n_labels, n_labels) counts of (true label, predicted label).
    """
    hierarchy = require("scipy.cluster.hierarchy", extra="evaluation")
    if len(matrix) < 3:
        return np.arange(len(matrix))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    apart = 1 - np.clip(shares + shares.T, 0, 1)
    pairs = apart[np.triu_indices(len(apart), 1)]
    return hierarchy.leaves_list(hierarchy.linkage(pairs, "average", optimal_ordering=True))


def plot_cells(
    points: np.ndarray,
    labels: Sequence[str],
    path: str | Path | None = None,
    *,
    title: str,
    marked: np.ndarray | None = None,
    mark: str = "training cells",
) -> "Axes":
    """Cells on a plane, coloured by label.

    Args:
        points: (n_cells, 2) places, for example of `umap_layout`.
        labels: (n_cells,) label of every cell.
        path: image to write; None writes none.
        title: title of the plot.
        marked: (n_cells,) bool, cells to draw with a black edge, such as those that a model was trained on.
        mark: what these are.

    Returns:
        The axes that were drawn on.
    """
    texts = texts_of(labels)
    marked = np.zeros(len(texts), bool) if marked is None else np.asarray(marked)
    names = in_order(texts[texts != ""])
    legend_columns = -(-(len(names) + 1) // LEGEND_ROWS)
    longest = max(map(len, names), default=0)
    figure, (axes,) = new_figure(4.6 + (0.9 + 0.075 * longest) * legend_columns, 4.4, title)
    size = point_size(len(texts))
    # in an order of chance: no label covers the others because of its name
    order = np.random.default_rng(0).permutation(len(texts))
    groups = [(texts == "", MISSING, "o", f"no label ({(texts == '').sum():,})")]
    for place, name in enumerate(names):
        number = f"{place + 1}  " if len(names) > NUMBERED else ""
        marker, color = MARKERS[(place + place // 10) % 10], COLORS[place % 10]
        groups.append((texts == name, color, marker, f"{number}{name} ({(texts == name).sum():,})"))
    for rows in np.array_split(order, 8 if len(texts) > 2000 else 1):
        for group in groups:
            _draw_group(axes, points, rows[group[0][rows]], group, marked, size)
    for chosen, color, marker, label in groups:
        if chosen.any():
            axes.scatter([], [], s=28, marker=marker, color=color, linewidths=0, label=label)
    if marked.any():
        label = f"black edge: {mark} ({marked.sum():,})"
        axes.scatter([], [], s=28, color="none", edgecolors="black", label=label)
    axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), ncols=legend_columns, frameon=False, fontsize=8)
    if len(names) > NUMBERED:
        middles = [np.median(np.asarray(points)[texts == name], axis=0) for name in names]
        write_beside(axes, np.array(middles), [str(place + 1) for place in range(len(names))], centred=True)
    if path is not None:
        save_figure(figure, path)
    return axes


def _draw_group(axes: Any, points: np.ndarray, rows: np.ndarray, group: tuple, marked: np.ndarray, size: float):
    """The cells `rows` of a label; those that are marked have a black edge."""
    _, color, marker, _ = group
    style = {"s": size, "marker": marker, "color": color, "linewidths": 0.5, "rasterized": len(points) > 2000}
    for chosen, edge in ((~marked[rows], "none"), (marked[rows], "black")):
        axes.scatter(*np.asarray(points)[rows[chosen]].T, edgecolors=edge, **style)


def plot_cell_values(
    points: np.ndarray, values: np.ndarray, path: str | Path | None = None, *, title: str, scale: str
) -> "Axes":
    """Cells on a plane, coloured by a value from 0 to 1, the highest drawn last.

    Args:
        points: (n_cells, 2) places, for example of `umap_layout`.
        values: (n_cells,) probabilities or shares.
        path: image to write; None writes none.
        title: title of the plot.
        scale: what the colours mean.

    Returns:
        The axes that were drawn on.
    """
    figure, (axes,) = new_figure(6.6, 4.2, title)
    values, size = np.asarray(values, float), point_size(len(values))
    missing = ~np.isfinite(values)
    if missing.any():
        label = f"no value ({missing.sum():,})"
        axes.scatter(*points[missing].T, s=size, color=MISSING, linewidths=0, label=label)
        axes.legend(loc="lower left", frameon=False, fontsize=8, markerscale=2)
    order = np.argsort(values, kind="stable")[: len(values) - missing.sum()]
    style = {"cmap": "viridis", "vmin": 0, "vmax": 1, "linewidths": 0, "rasterized": len(values) > 2000}
    drawn = axes.scatter(*points[order].T, s=size, c=values[order], **style)
    axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    bar = figure.colorbar(drawn, ax=axes, label=scale, shrink=0.8)
    bar.outline.set_visible(False)
    if path is not None:
        save_figure(figure, path)
    return axes


def plot_calibration(
    confidence: np.ndarray, is_right: np.ndarray, *, n_bins: int = 10, axes: "Axes | None" = None
) -> "Axes":
    """How often cells of a confidence are labelled rightly, in bins of confidence; numbers are cells.

    Args:
        confidence: (n_cells,) probabilities of the labels; NaN is left out.
        is_right: (n_cells,) bool, whether the label is right.
        n_bins: bins of equal width from 0 to 1.
        axes: where to draw; by default a new figure.

    Returns:
        The axes. The title says the expected calibration error: the mean distance of the points from the diagonal,
        weighed by cells (Guo et al., ICML 2017).

    Raises:
        ConfigurationError: no cell has a confidence, or one is not from 0 to 1.
    """
    confidence, is_right = np.asarray(confidence, float), np.asarray(is_right, bool)
    known = np.isfinite(confidence)
    confidence, is_right = confidence[known], is_right[known]
    if not len(confidence) or confidence.min() < 0 or confidence.max() > 1:
        raise ConfigurationError("A calibration needs cells with probabilities from 0 to 1.")
    axes = new_figure(4.2, 4.0, "", 1)[1][0] if axes is None else axes
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    numbers = np.bincount(bins, minlength=n_bins)
    used = np.flatnonzero(numbers)
    told = np.bincount(bins, confidence, n_bins)[used] / numbers[used]
    right = np.bincount(bins, is_right, n_bins)[used] / numbers[used]
    axes.plot([0, 1], [0, 1], linestyle=":", color=COLORS[8])
    axes.plot(told, right, marker="o", markersize=5, color=COLORS[0])
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.08), xlabel="confidence", ylabel="share of right labels")
    error = float(np.average(np.abs(told - right), weights=numbers[used]))
    axes.set_title(f"{len(confidence):,} cells, calibration error {error:.3f}", fontsize=9, loc="left")
    write_beside(axes, np.column_stack([told, right]), [f"{number:,}" for number in numbers[used]])
    return axes


def plot_coverage(coverage: Any, *, n_names: int = 12, axes: "Axes | None" = None) -> "Axes":
    """What became of the genes of a data set, and which of those with the most counts the model lacks.

    Args:
        coverage: a `GeneCoverage`, as `sclm_hf.pp.coverage` gives it.
        n_names: how many missing genes are named.
        axes: where to draw; by default a new figure.

    Returns:
        The axes: a bar for each group of genes.
    """
    axes = new_figure(7.2, 2.8, "", 1)[1][0] if axes is None else axes
    groups = [
        ("used, as written", coverage.matched, COLORS[0]),
        ("used, under another name", coverage.renamed, COLORS[9]),
        ("missing in the model", coverage.missing, COLORS[1]),
        ("ambiguous", coverage.ambiguous, COLORS[7]),
        ("a second column of a gene", coverage.duplicated, COLORS[7]),
        ("no genes", coverage.not_genes, COLORS[3]),
    ]
    names, found, colors = zip(*[group for group in groups if len(group[1])], strict=True)
    numbers = list(map(len, found))
    axes.barh(range(len(names)), numbers, color=colors)
    for row, number in enumerate(numbers):
        axes.annotate(f"{number:,}", (number, row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set(xlabel="genes")
    title = f"{coverage.count_share:.1%} of the counts are in genes that the model knows"
    missing = ", ".join(coverage.missing[:n_names])
    if missing:
        title += "\n" + "\n".join(textwrap.wrap(f"missing, most counts first: {missing}", 62))
    axes.set_title(title, fontsize=9, loc="left")
    return axes


def plot_volcano(
    effects: Sequence[float],
    rates: Sequence[float],
    names: Sequence[str],
    *,
    threshold: float = 0.05,
    n_names: int = 10,
    xlabel: str = "effect",
    axes: "Axes | None" = None,
) -> "Axes":
    """Effects against false discovery rates, the strongest of those below the threshold with their names.

    Args:
        effects: (tested,) effects; NaN = not tested.
        rates: (tested,) false discovery rates, of Benjamini and Hochberg; NaN = not tested.
        names: (tested,) what was tested.
        threshold: rate below which points are coloured.
        n_names: how many names are written, of the lowest rates, and among equal ones of the strongest effects.
        xlabel: what the effects are.
        axes: where to draw; by default a new figure.

    Returns:
        The axes.
    """
    effects, rates = np.asarray(effects, float), np.asarray(rates, float)
    axes = new_figure(4.6, 4.0, "", 1)[1][0] if axes is None else axes
    tested = np.flatnonzero(np.isfinite(effects) & np.isfinite(rates))
    # a rate of 0 is below the smallest number: it is drawn above all others
    known = rates[tested][rates[tested] > 0]
    lowest = 10.0 ** -max(-np.log10(known.min()) * 1.15 if len(known) else 3.0, 3.0)
    heights = -np.log10(np.maximum(rates, lowest))
    is_low = rates <= threshold
    for chosen, color in (
        (~is_low, COLORS[3]),
        (is_low & (effects > 0), COLORS[2]),
        (is_low & (effects <= 0), COLORS[0]),
    ):
        places = tested[chosen[tested]]
        axes.scatter(effects[places], heights[places], s=14, color=color, linewidths=0)
    axes.axhline(-np.log10(threshold), color="black", linewidth=0.8, linestyle=":")
    axes.axvline(0, color="black", linewidth=0.5)
    named = tested[is_low[tested]]
    top = heights[tested].max(initial=-np.log10(threshold))
    axes.set_ylim(-0.03 * top, 1.12 * top)
    axes.margins(x=0.12)
    axes.set(xlabel=xlabel, ylabel="-log10 false discovery rate")
    zeros = int((rates[tested] == 0).sum())
    above = f"; {zeros:,} of a rate of 0 in the top row" if zeros else ""
    title = f"{len(tested):,} tested, {len(named):,} at a rate of {threshold:g} or less{above}"
    axes.set_title("\n".join(textwrap.wrap(title, 58)), fontsize=9, loc="left")
    strongest = named[np.lexsort((-np.abs(effects[named]), rates[named]))][:n_names]
    places = np.column_stack([effects, heights])[strongest]
    write_beside(axes, places, [str(names[place]) for place in strongest])
    return axes


def plot_network(edges: "DataFrame", *, n_edges: int = 60, seed: int = 0, axes: "Axes | None" = None) -> "Axes":
    """The strongest edges of a network of genes: regulators as squares, targets as circles.

    Args:
        edges: a table of edges as `grn` gives it, the strongest first; of one condition.
        n_edges: how many are drawn.
        seed: seed of where genes lie.
        axes: where to draw; by default a new figure.

    Returns:
        The axes. Edges are red where the sign is positive, blue where it is negative, else grey.

    Raises:
        ConfigurationError: there are no edges.
    """
    if not len(edges):
        raise ConfigurationError("There are no edges to draw: take more genes or cells.")
    drawn = edges.head(n_edges)
    names = sorted({*drawn["regulator"], *drawn["target"]})
    side = float(np.clip(2.2 * len(names) ** 0.35, 4, 12))
    axes = new_figure(1.1 * side, side, "", 1)[1][0] if axes is None else axes
    place_of = {name: place for place, name in enumerate(names)}
    pairs = [(place_of[one], place_of[other]) for one, other in zip(drawn["regulator"], drawn["target"], strict=True)]
    points = _layout(pairs, len(names), seed)
    for (one, other), sign in zip(pairs, drawn["sign"].fillna(0), strict=True):
        color = COLORS[{1: 2, -1: 0}.get(int(sign), 3)]
        axes.plot(*points[[one, other]].T, color=color, linewidth=0.8, alpha=0.7, zorder=1)
    regulators = {place_of[name] for name in drawn["regulator"]}
    for marker, chosen in (("s", regulators), ("o", set(range(len(names))) - regulators)):
        places = sorted(chosen)
        axes.scatter(*points[places].T, s=26, marker=marker, color=COLORS[8], linewidths=0, zorder=2)
    axes.set_axis_off()
    axes.margins(0.12)
    axes.set_title(f"the strongest {len(drawn):,} of {len(edges):,} edges", fontsize=9, loc="left")
    line = require("matplotlib.lines", extra="evaluation").Line2D
    handles = [line([], [], label=label, **style) for label, style in _NETWORK_LEGEND.items()]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=5, frameon=False, fontsize=7)
    write_beside(axes, points, names)
    return axes


_NETWORK_LEGEND = {
    "regulator": {"marker": "s", "linestyle": "", "color": COLORS[8], "markersize": 5},
    "target": {"marker": "o", "linestyle": "", "color": COLORS[8], "markersize": 5},
    "positive": {"color": COLORS[2]},
    "negative": {"color": COLORS[0]},
    "sign unknown": {"color": COLORS[3]},
}


def plot_explanation(
    curves: Sequence[Mapping[str, Any]], fractions: Sequence[float], *, axes: "Sequence[Axes] | None" = None
) -> "tuple[Axes, Axes]":
    """Curves of deletion and of insertion, side by side; orders that need no explanation are dotted.

    Args:
        curves: records of orders of genes, as `explain` gives them under `attrs["curves"]`.
        fractions: fractions of the genes, as under `attrs["fractions"]`.
        axes: where to draw, two of them; by default a new figure.

    Returns:
        The axes of deletion and of insertion. The legend says the area under each curve and its 95 % interval.

    Raises:
        ConfigurationError: there are no curves.
    """
    if not curves:
        raise ConfigurationError("There are no curves to draw: `explain` gives them.")
    axes = new_figure(9.2, 3.6, "", 2)[1] if axes is None else axes
    for one, what, xlabel in zip(axes, ("deletion", "insertion"), ("deleted", "put in"), strict=True):
        for place, record in enumerate(curves):
            low, high = record[f"{what}_low"], record[f"{what}_high"]
            label = f"{record['method'].replace('_', ' ')}: {record[what]:.3f} ({low:.3f} to {high:.3f})"
            style = ":" if record["method"] in ("random", "expression") else "-"
            color = COLORS[(3, 8, 0, 2, 4)[place % 5]]
            one.plot(fractions, record[f"{what}_curve"], linestyle=style, color=color, label=label)
        one.set(xlabel=f"fraction of genes {xlabel}, highest score first", ylabel="probability of the class")
        one.set_ylim(0, 1)
        one.set_title(f"{what}: {'low' if what == 'deletion' else 'high'} is good", fontsize=9, loc="left")
        one.legend(frameon=False, fontsize=7)
    return tuple(axes)


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


def plot_tissue(
    coordinates: np.ndarray,
    domains: Sequence[str],
    *,
    slices: Sequence[str] | None = None,
    axes: "Axes | None" = None,
) -> "Axes":
    """Cells where they lie in the tissue, coloured by domain; slices stand side by side.

    Args:
        coordinates: (n_cells, 2 or 3) places; of three numbers the first two are drawn.
        domains: (n_cells,) the domain of each cell, or a label; colours follow the categories, or the sorted names.
        slices: (n_cells,) the slice of each cell; None = all are of one.
        axes: where to draw; by default a new figure.

    Returns:
        The axes.

    Raises:
        ConfigurationError: there are no cells, or a place is not finite.
    """
    points = np.array(coordinates, float)[:, :2]
    if not len(points) or not np.isfinite(points).all():
        raise ConfigurationError(f"The places of {len(points):,} cells cannot be drawn: they must be finite numbers.")
    slices = np.asarray(["" for _ in points] if slices is None else slices, str)
    names = np.unique(slices)
    starts = {}
    for name, left in zip(names, _side_by_side(points, slices, names), strict=True):
        rows = slices == name
        points[rows] -= points[rows].min(axis=0) - [left, 0]
        starts[name] = left
    texts = texts_of(domains)
    kinds = list(map(str, getattr(domains, "categories", in_order(texts[texts != ""]))))
    longest = max(map(len, kinds), default=0)
    width, height = _figure_of_tissue(points)
    # a legend that is taller than the figure leaves no room for anything else
    legend_columns = -(-len(kinds) // int(height / 0.18))
    legend_width = (0.9 + 0.075 * longest) * legend_columns
    axes = new_figure(width + legend_width, height, "", 1)[1][0] if axes is None else axes
    size = float(np.clip(0.2 * 72**2 * width * height / len(points), 1.5, 36))
    if (texts == "").any():
        axes.scatter(*points[texts == ""].T, s=size, color=MISSING, linewidths=0, label="none")
    for place, kind in enumerate(kinds):
        chosen = points[texts == kind]
        marker, color = MARKERS[(place // 10) % 10], COLORS[place % 10]
        axes.scatter(*chosen.T, s=size, marker=marker, color=color, linewidths=0, label=f"{kind} ({len(chosen):,})")
    letters = max(4, int(10 * width / len(starts)))
    n_lines = 0
    for name, left in starts.items():
        # a name without room for a word of twelve letters is written at a slant
        lines = [name] if letters < 12 and len(name) > letters else textwrap.wrap(name, letters)
        style = {"rotation": -50, "rotation_mode": "anchor"} if lines == [name] and len(name) > letters else {}
        place = {"xytext": (0, -6), "textcoords": "offset points", "va": "top", "fontsize": 8}
        axes.annotate("\n".join(lines), (left, 0), **place, **style)
        n_lines = max(n_lines, len(name) // 3 if style else len(lines))
    axes.set_ylim(bottom=-np.ptp(points[:, 1]) * (0.05 + 0.17 * n_lines / height))
    axes.set_aspect("equal")
    axes.set_axis_off()
    legend = {"frameon": False, "fontsize": 8, "ncols": legend_columns, "markerscale": (28 / size) ** 0.5}
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), **legend)
    return axes


def _figure_of_tissue(points: np.ndarray) -> tuple[float, float]:
    """Inches that keep the shape of a tissue, neither a ribbon nor a wall."""
    across, up = np.maximum(np.ptp(points, axis=0), 1e-9)
    height = float(np.clip(12 * up / across, 2.8, 5))
    return float(np.clip(height * across / up, 2.8, 14)), height


def _side_by_side(points: np.ndarray, slices: np.ndarray, names: np.ndarray) -> np.ndarray:
    """(slices,) where each begins, a tenth of the widest apart."""
    widths = np.array([np.ptp(points[slices == name, 0]) for name in names])
    return np.concatenate([[0], np.cumsum(widths + widths.max() / 10)[:-1]])


def _layout(pairs: Sequence[tuple[int, int]], n_genes: int, seed: int) -> np.ndarray:
    """(n_genes, 2) places by Kamada and Kawai, from places drawn by the seed; small parts are piled up."""
    igraph = require("igraph", extra="evaluation")
    graph, random = igraph.Graph(n_genes, list(pairs)), np.random.default_rng(seed)
    points, left, bottom, widest, highest = np.zeros((n_genes, 2)), 0.0, 0.0, 0.0, 0.0
    # each part by itself: laid out together, parts without edges between them fly apart
    for part in sorted(graph.connected_components(), key=len, reverse=True):
        start = random.normal(size=(len(part), 2)).tolist()
        places = np.asarray(graph.induced_subgraph(part).layout_kamada_kawai(seed=start).coords)
        places -= places.min(axis=0)
        width, height = np.ptp(places, axis=0) + 1
        if bottom + height > highest:
            left, bottom, widest, highest = left + widest, 0.0, width, max(highest, height)
        points[part] = places + np.array([left, bottom])
        bottom += height
    return points


def umap_layout(embedding: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """(n_cells, 2) UMAP of an (n_cells, dimensions) embedding, through scanpy with its default settings."""
    scanpy = require("scanpy", extra="evaluation")
    anndata = require("anndata", extra="evaluation")
    cells = anndata.AnnData(obsm={"embedding": np.asarray(embedding)})
    scanpy.pp.neighbors(cells, use_rep="embedding", random_state=seed)
    scanpy.tl.umap(cells, random_state=seed)
    return cells.obsm["X_umap"]


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
