"""Genes: which are known, what they do, and how they hang together."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError, require
from .drawing import COLORS, new_figure, write_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


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
