"""Cells on a plane or in their tissue, by label or value."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError, require
from .drawing import COLORS, MARKERS, MISSING, in_order, new_figure, point_size, save_figure, texts_of, write_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes


NUMBERED = 10
"""With more labels than this, each has its number on its cells: colours return."""


LEGEND_ROWS = 24
"""Labels of a legend that stand below one another."""


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


def umap_layout(embedding: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """(n_cells, 2) UMAP of an (n_cells, dimensions) embedding, through scanpy with its default settings."""
    scanpy = require("scanpy", extra="evaluation")
    anndata = require("anndata", extra="evaluation")
    cells = anndata.AnnData(obsm={"embedding": np.asarray(embedding)})
    scanpy.pp.neighbors(cells, use_rep="embedding", random_state=seed)
    scanpy.tl.umap(cells, random_state=seed)
    return cells.obsm["X_umap"]
