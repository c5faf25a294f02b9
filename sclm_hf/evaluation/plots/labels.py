"""How labels were predicted: which for which, and how sure."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ConfigurationError, require
from .drawing import COLORS, in_order, new_figure, point_size, save_figure, texts_of, write_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    are_labels = predicted_names is None
    if are_labels:
        columns = order_of_labels(matrix)
        # what is only predicted, such as "unknown", comes last, and has no row
        is_tested = matrix.sum(axis=1)[columns] > 0
        columns = np.concatenate([columns[is_tested], columns[~is_tested]])
        rows, predicted_names = columns[: is_tested.sum()], label_names
    else:
        rows = np.arange(len(matrix))
        columns = np.argsort((matrix / np.maximum(matrix.sum(axis=0), 1)).argmax(axis=0), kind="stable")
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
        if are_labels and row == column:
            axes.plot(*_SQUARE.T + row, color=COLORS[8], linewidth=0.6)
    tilt = {} if max(map(len, predicted)) <= 3 else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(predicted)), predicted, **tilt)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(False)
    written = [(40, "tested", [f"{int(total):,}" for total in totals])]
    if are_labels:
        recalls = [f"{shares[row, row]:.2f}" for row in range(len(totals))]
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


def plot_distances(
    distances: np.ndarray, labels: Sequence[str], limit: float, *, unknown: str, axes: "Axes | None" = None
) -> "Axes":
    """How far cells lie from the reference cells that label them, a row of points for each label, with its median.

    Args:
        distances: (n_cells,) mean cosine distances of their neighbours.
        labels: (n_cells,) the label of each cell.
        limit: the largest distance that is not `unknown`.
        unknown: how cells further away are called; their row is the last.
        axes: where to draw; by default a new figure.

    Returns:
        The axes.
    """
    texts, distances = texts_of(labels), np.asarray(distances, float)
    names = sorted(in_order(texts), key=lambda name: name == unknown)
    longest = max(map(len, names), default=0)
    if axes is None:
        axes = new_figure(4.8 + 0.07 * longest, 1.3 + 0.3 * len(names), "", 1)[1][0]
    # points are spread within their row by chance, which has no meaning
    spread = np.random.default_rng(0).uniform(-0.3, 0.3, len(texts))
    style = {"s": point_size(len(texts)) / 2, "linewidths": 0, "alpha": 0.6, "rasterized": len(texts) > 2000}
    for row, name in enumerate(names):
        chosen = texts == name
        color = COLORS[3] if name == unknown else COLORS[0]
        axes.scatter(distances[chosen], row + spread[chosen], color=color, **style)
        axes.vlines(np.median(distances[chosen]), row - 0.36, row + 0.36, color="black", linewidth=1.4)
    axes.axvline(limit, linestyle=":", color=COLORS[2])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_yticks(range(len(names)), [f"{name} ({(texts == name).sum():,})" for name in names])
    axes.set(xlabel=f"mean cosine distance of the neighbours; right of the dots: {unknown}", ylabel="label (cells)")
    return axes
