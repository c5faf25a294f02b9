"""The three pictures of a report: losses, embeddings, confusions. Drawn without a display, written to a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_loss(curves: dict[str, tuple[Sequence[float], Sequence[float]]], path: str | Path, *, title: str) -> None:
    """Losses against optimiser steps.

    Args:
        curves: name of the curve -> (steps, losses). Curves of more than 50 points are drawn pale with their running
            mean on top.
        path: image to write; the suffix says in which format.
        title: title of the plot.
    """
    figure, axes = _figure(4.8, 3.2, title)
    for name, (steps, losses) in curves.items():
        steps, losses = np.asarray(steps), np.asarray(losses, dtype=float)
        if len(losses) <= 50:
            axes.plot(steps, losses, marker="o", markersize=3, label=name)
            continue
        width = max(len(losses) // 20, 2)
        (line,) = axes.plot(steps, losses, alpha=0.25, linewidth=0.8)
        smooth = np.convolve(losses, np.full(width, 1 / width), mode="valid")
        axes.plot(steps[width - 1 :], smooth, color=line.get_color(), label=f"{name} (mean of {width} steps)")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend(frameon=False)
    _save(figure, path)


def plot_confusion(matrix: np.ndarray, label_names: Sequence[str], path: str | Path, *, title: str) -> None:
    """Share of each true label (rows) that was predicted as each label (columns), with the counts written in.

    Args:
        matrix: (n_labels, n_labels) counts as `metrics.confusion_matrix` gives them.
        label_names: names of the labels, in order.
        path: image to write.
        title: title of the plot.
    """
    n_labels = len(label_names)
    side = 2.6 + 0.38 * n_labels
    figure, axes = _figure(side + 0.6, side, title)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        color = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, int(matrix[row, column]), ha="center", va="center", color=color, fontsize=7)
    axes.set_xticks(range(n_labels), label_names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n_labels), label_names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, label="share of the true label")
    _save(figure, path)


def plot_cells(points: np.ndarray, labels: Sequence[str], path: str | Path, *, title: str) -> None:
    """Cells on a plane, coloured by label.

    Args:
        points: (n_cells, 2) places, for example of `umap_layout`.
        labels: (n_cells,) label of every cell.
        path: image to write.
        title: title of the plot.
    """
    palettes = require("scanpy.plotting.palettes", extra="evaluation")
    labels = np.asarray(labels, dtype=str)
    names = np.unique(labels)
    colors = palettes.default_20 if len(names) <= 20 else palettes.default_102
    legend_columns = -(-len(names) // 24)
    figure, axes = _figure(4.4 + 2.0 * legend_columns, 4.2, title)
    for place, name in enumerate(names):
        chosen = labels == name
        axes.scatter(
            *points[chosen].T, s=9, linewidths=0, color=colors[place % len(colors)], label=f"{name} ({chosen.sum()})"
        )
    axes.set(xticks=[], yticks=[])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2, ncols=legend_columns, frameon=False)
    _save(figure, path)


def umap_layout(embedding: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """(n_cells, 2) UMAP of an (n_cells, dimensions) embedding, through scanpy with its default settings."""
    scanpy = require("scanpy", extra="evaluation")
    anndata = require("anndata", extra="evaluation")
    cells = anndata.AnnData(obsm={"embedding": np.asarray(embedding)})
    scanpy.pp.neighbors(cells, use_rep="embedding", random_state=seed)
    scanpy.tl.umap(cells, random_state=seed)
    return cells.obsm["X_umap"]


def _figure(width: float, height: float, title: str):
    """A figure of its own, outside pyplot: no display, no global state."""
    figure_module = require("matplotlib.figure", extra="evaluation")
    figure = figure_module.Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", weight="bold", fontsize=11)
    axes.tick_params(labelsize=8)
    return figure, axes


def _save(figure: "Figure", path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", dpi=160)
