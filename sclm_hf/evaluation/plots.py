"""The pictures of a report: training, embeddings, confusions, effects, networks, explanations, tissue.

They are drawn without a display. Colours are those of Petroff's ten, which people with colour-blindness tell apart;
labels differ in shape as well.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigurationError, require
from ..files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

COLORS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
"""Petroff, "Accessible color sequences for data visualization", 2021."""

MARKERS = "os^Dv<P>Xp"

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
    figure, panels = _figure(4.6 * n_panels, 3.2, title, n_panels)
    losses, validation = _curve(history, "loss"), _curve(history, "eval_loss")
    _draw_losses(panels[0], losses, "training", COLORS[0])
    if len(validation[0]):
        panels[0].plot(*validation, marker="o", markersize=4, color=COLORS[2], label="validation")
    values = np.concatenate([losses[1], validation[1]])
    if values.min() > 0 and values.max() / values.min() > WIDE_RANGE:
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
    matrix: np.ndarray, label_names: Sequence[str], path: str | Path | None = None, *, title: str, note: str = ""
) -> "Axes":
    """Share of each true label (rows) that was predicted as each label (columns), with the counts written in.

    Labels that are taken for one another stand side by side. On the right: how many cells were tested, and the recall.

    Args:
        matrix: (n_labels, n_labels) counts as `metrics.confusion_matrix` gives them.
        label_names: names of the labels, in order.
        path: image to write; None writes none.
        title: title of the plot.
        note: a line under the title, such as how often each cell was tested.

    Returns:
        The axes that were drawn on.
    """
    order = order_of_labels(matrix)
    matrix, names = matrix[np.ix_(order, order)], [label_names[place] for place in order]
    side = 2.6 + 0.4 * len(names)
    figure, (axes,) = _figure(side + 1.2, side, title)
    totals = matrix.sum(axis=1)
    shares = matrix / np.maximum(totals[:, None], 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        color = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, int(matrix[row, column]), ha="center", va="center", color=color, fontsize=7)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(False)
    for place, heading in ((0.2, "tested"), (1.4, "recall")):
        axes.text(len(names) + place - 0.1, -0.8, heading, ha="center", va="center", fontsize=7, weight="bold")
    for row, total in enumerate(totals):
        recall = f"{shares[row, row]:.2f}" if total else "–"
        axes.text(len(names) + 0.1, row, int(total), ha="center", va="center", fontsize=7)
        axes.text(len(names) + 1.3, row, recall, ha="center", va="center", fontsize=7)
    if note:
        figure.text(0.01, -0.01, note, fontsize=8, va="top")
    if path is not None:
        save_figure(figure, path)
    return axes


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
    labels = np.asarray(labels, dtype=str)
    marked = np.zeros(len(labels), bool) if marked is None else np.asarray(marked)
    names = np.unique(labels)
    legend_columns = -(-len(names) // 24)
    figure, (axes,) = _figure(4.4 + 2.2 * legend_columns, 4.2, title)
    for place, name in enumerate(names):
        chosen = labels == name
        marker, color = MARKERS[(place + place // 10) % 10], COLORS[place % 10]
        for drawn, edge in ((chosen & ~marked, "none"), (chosen & marked, "black")):
            axes.scatter(*points[drawn].T, s=16, marker=marker, color=color, edgecolors=edge, linewidths=0.5)
        axes.scatter([], [], s=28, marker=marker, color=color, linewidths=0, label=f"{name} ({chosen.sum()})")
    if marked.any():
        axes.scatter([], [], s=28, color="none", edgecolors="black", label=f"black edge: {mark} ({marked.sum()})")
    axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), ncols=legend_columns, frameon=False, fontsize=8)
    if path is not None:
        save_figure(figure, path)
    return axes


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
    figure, (axes,) = _figure(6.6, 4.2, title)
    order = np.argsort(values, kind="stable")
    drawn = axes.scatter(*points[order].T, s=16, c=np.asarray(values)[order], cmap="viridis", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    bar = figure.colorbar(drawn, ax=axes, label=scale, shrink=0.8)
    bar.outline.set_visible(False)
    if path is not None:
        save_figure(figure, path)
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
        n_names: how many names are written, of the lowest rates.
        xlabel: what the effects are.
        axes: where to draw; by default a new figure.

    Returns:
        The axes.
    """
    effects, rates = np.asarray(effects, float), np.asarray(rates, float)
    axes = _figure(4.6, 4.0, "", 1)[1][0] if axes is None else axes
    tested = np.flatnonzero(np.isfinite(effects) & np.isfinite(rates))
    # a rate of 0 is one below the smallest number
    heights = -np.log10(np.maximum(rates, np.finfo(float).tiny))
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
    for place in named[np.argsort(rates[named], kind="stable")][:n_names]:
        axes.annotate(
            str(names[place]), (effects[place], heights[place]), fontsize=7, xytext=(3, 2), textcoords="offset points"
        )
    axes.set(xlabel=xlabel, ylabel="-log10 false discovery rate (Benjamini-Hochberg)")
    axes.set_title(
        f"{len(tested):,} tested, {len(named):,} at a rate of {threshold:g} or less", fontsize=9, loc="left"
    )
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
    axes = _figure(6.0, 5.4, "", 1)[1][0] if axes is None else axes
    drawn = edges.head(n_edges)
    names = sorted({*drawn["regulator"], *drawn["target"]})
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
    for name, point in zip(names, points, strict=True):
        axes.annotate(name, point, fontsize=7, xytext=(3, 2), textcoords="offset points", zorder=3)
    axes.set_axis_off()
    axes.set_title(f"the strongest {len(drawn):,} of {len(edges):,} edges", fontsize=9, loc="left")
    return axes


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
    axes = _figure(9.2, 3.6, "", 2)[1] if axes is None else axes
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
    figure, axes = _figure(2.2 + 2.6 * n_columns, (1.2 + 0.3 * len(methods)) * n_rows, "", n_columns, n_rows)
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
        one.set_title(title, fontsize=9, loc="left")
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
    _, axes = _figure(0.6 + 3.8 * len(panels), 3.6, "", len(panels))
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
    axes = _figure(1.6 + 0.62 * len(names), 1.4 + 0.36 * len(values), "", 1)[1][0] if axes is None else axes
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(*values.shape):
        color = "white" if values[row, column] > 0.55 else "black"
        axes.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", color=color, fontsize=7)
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
    axes = _figure(4.6 * min(len(names), 4) + 1.6, 4.4, "", 1)[1][0] if axes is None else axes
    kinds = list(getattr(domains, "categories", np.unique(np.asarray(domains, str))))
    texts = np.asarray(domains, str)
    size = float(np.clip(9000 / len(points), 2, 36))
    for place, kind in enumerate(map(str, kinds)):
        chosen = points[texts == kind]
        marker, color = MARKERS[(place // 10) % 10], COLORS[place % 10]
        axes.scatter(*chosen.T, s=size, marker=marker, color=color, linewidths=0, label=f"{kind} ({len(chosen)})")
    for name, left in starts.items():
        axes.annotate(name, (left, 0), fontsize=8, xytext=(0, -4), textcoords="offset points", va="top")
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    return axes


def _side_by_side(points: np.ndarray, slices: np.ndarray, names: np.ndarray) -> np.ndarray:
    """(slices,) where each begins, a tenth of the widest apart."""
    widths = np.array([np.ptp(points[slices == name, 0]) for name in names])
    return np.concatenate([[0], np.cumsum(widths + widths.max() / 10)[:-1]])


def _layout(pairs: Sequence[tuple[int, int]], n_genes: int, seed: int) -> np.ndarray:
    """(n_genes, 2) places by Kamada and Kawai, from places drawn by the seed."""
    igraph = require("igraph", extra="evaluation")
    start = np.random.default_rng(seed).normal(size=(n_genes, 2))
    layout = igraph.Graph(n_genes, list(pairs)).layout_kamada_kawai(seed=start.tolist())
    return np.asarray(layout.coords)


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
        axes.plot(steps, losses, color=color, label=name)
        return
    width = len(losses) // 20
    axes.plot(steps, losses, alpha=0.3, linewidth=0.8, color=color)
    smooth = np.convolve(losses, np.full(width, 1 / width), mode="valid")
    # each record is the mean of the steps since the one before
    n_steps = width * round((steps[-1] - steps[0]) / (len(steps) - 1))
    axes.plot(steps[width - 1 :], smooth, color=color, label=f"{name}, mean of {n_steps} steps")


def _figure(width: float, height: float, title: str, n_panels: int = 1, n_rows: int = 1):
    """A figure of its own, outside pyplot: no display, no global state."""
    figure_module = require("matplotlib.figure", extra="evaluation")
    figure = figure_module.Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(n_rows, n_panels, squeeze=False).ravel()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=11)
    return figure, panels


def check_image(path: str | Path) -> None:
    """Refuse, before the work, the name of an image that could not be drawn after it.

    Raises:
        ConfigurationError: its suffix is that of no image.
    """
    known = require("matplotlib.backend_bases", extra="evaluation").FigureCanvasBase.filetypes
    if Path(path).suffix[1:].lower() not in known:
        raise ConfigurationError(f"`{path}` must be named as an image is, for example `….png`, `….pdf` or `….svg`.")


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Write an image whole or not at all; the suffix says in which format."""
    path = Path(path)
    with written_whole(path) as unfinished:
        figure.savefig(unfinished, format=path.suffix[1:].lower(), bbox_inches="tight", dpi=160)
