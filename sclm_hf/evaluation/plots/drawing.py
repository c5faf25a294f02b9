"""What all pictures share: figures, colours, the order of labels, names that do not cover one another."""

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError, require
from ...files import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
"""Petroff, "Accessible color sequences for data visualization", 2021."""

MARKERS = "os^Dv<P>Xp"

MISSING = "#d5d5d5"
"""Cells without a label or a value, drawn first."""

_SIDES = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Where a name stands beside its point."""

_DISTANCES = (1, 2.2, 3.6, 5.2, 7, 9, 11, 13, 16, 19, 22, 26, 30)
"""And how far away, in three points, the nearest that is free."""


def new_figure(width: float, height: float, title: str, n_panels: int = 1, n_rows: int = 1):
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


def texts_of(labels: Any) -> np.ndarray:
    """(n_cells,) labels as strings; one that is missing is empty."""
    pandas = require("pandas", extra="evaluation")
    values = np.asarray(labels, dtype=object)
    return np.where(pandas.isna(values), "", values.astype(str)).astype(str)


def in_order(texts: np.ndarray) -> list[str]:
    """The different ones, numbers within them in the order of numbers: 2 before 10."""
    parts = re.compile(r"(\d+)")
    return sorted(
        map(str, np.unique(texts)),
        key=lambda text: [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts.split(text)],
    )


def point_size(n_cells: int) -> float:
    """Points shrink where there are many."""
    return float(np.clip(16 * (2000 / max(n_cells, 1)) ** 0.5, 1.5, 16))


def write_beside(axes: Any, points: np.ndarray, names: Sequence[str], *, centred: bool = False) -> None:
    """Write names beside their points, each at the first of eight sides where it covers no other name.

    Args:
        axes: where to draw; its limits stay as they are from now on.
        points: (names, 2) places.
        names: what to write, the most important first.
        centred: whether to write on the point where that is free.
    """
    effects = require("matplotlib.patheffects", extra="evaluation")
    axes.autoscale(False)
    axes.figure.draw_without_rendering()
    frame, taken = axes.get_window_extent(), []
    for name, point in zip(names, points, strict=True):
        style = {"fontsize": 7, "textcoords": "offset points", "annotation_clip": False, "zorder": 4}
        text = axes.annotate(name, point, xytext=(3, 2), ha="center" if centred else "left", **style)
        text.set_path_effects([effects.withStroke(linewidth=2, foreground="white")])
        for distance, (across, up) in product(_DISTANCES, _SIDES):
            here = centred and distance == 1
            text.set_ha("center" if here or not across else ("left" if across > 0 else "right"))
            text.set_va("center" if here or not up else ("bottom" if up > 0 else "top"))
            text.set_position((0, 0) if here else (3 * distance * across, 3 * distance * up))
            box = text.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
        if abs(text.get_position()[0]) + abs(text.get_position()[1]) > 12:
            start = axes.transData.inverted().transform(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))
            axes.plot(*np.array([start, point]).T, color="black", linewidth=0.4, zorder=1.5)
