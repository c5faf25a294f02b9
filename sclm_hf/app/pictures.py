"""Maps of cells as images, and which cell was clicked."""

from typing import NamedTuple

import numpy as np

from ..errors import require
from ..evaluation.plots import plot_cell_values, plot_cells
from .analysis import CONFIDENCE, PLACES, PREDICTION, Analysis

NEAR = 40
"""Pixels from a click to a cell, at most."""


class Picture(NamedTuple):
    """A map.

    Attributes:
        pixels: (height, width, 3) uint8.
        places: (n_cells, 2) where the cells are in it: columns, and rows from the top.
    """

    pixels: np.ndarray
    places: np.ndarray


def draw_maps(analysis: Analysis, chosen: int | None = None) -> tuple[Picture, Picture]:
    """The map coloured by label and by confidence.

    Args:
        analysis: of the cells.
        chosen: row of a cell to put a ring around.
    """
    points, obs = analysis.cells.obsm[PLACES], analysis.cells.obs
    labels = plot_cells(points, obs[PREDICTION], title="Predicted label: click on a cell")
    confidence, title = obs[CONFIDENCE].to_numpy(), "Confidence: click on a cell"
    values = plot_cell_values(points, confidence, title=title, scale="probability of the label")
    return tuple(_rendered(axes, points, chosen) for axes in (labels, values))


def _rendered(axes, points: np.ndarray, chosen: int | None) -> Picture:
    canvas = require("matplotlib.backends.backend_agg", extra="evaluation").FigureCanvasAgg(axes.figure)
    if chosen is not None:
        axes.scatter(*points[chosen], s=160, facecolors="none", edgecolors="black", linewidths=1.6, zorder=5)
    axes.figure.set_dpi(160)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    places = axes.transData.transform(points)
    return Picture(pixels, np.column_stack([places[:, 0], len(pixels) - places[:, 1]]))


def clicked(picture: Picture, column: float, row: float) -> int | None:
    """The row of the cell that is closest to a click; None where none is near."""
    distances = np.hypot(*(picture.places - [column, row]).T)
    nearest = int(distances.argmin())
    return nearest if distances[nearest] <= NEAR else None
