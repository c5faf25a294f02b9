import numpy as np
import pytest

from sclm_hf.evaluation.plots import plot_cells, plot_confusion, plot_loss, umap_layout


def read_png_size(path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def test_loss_curves_are_written(tmp_path):
    steps = np.arange(200)
    curves = {"train": (steps, 1 / (steps + 1)), "evaluation": ([50, 100], [0.5, 0.4])}
    plot_loss(curves, tmp_path / "plots" / "loss.png", title="Pre-training")
    assert min(read_png_size(tmp_path / "plots" / "loss.png")) > 300


def test_confusion_grows_with_the_labels(tmp_path):
    plot_confusion(np.eye(2, dtype=int), ["B", "T"], tmp_path / "small.png", title="Two")
    plot_confusion(np.eye(9, dtype=int), list("abcdefghi"), tmp_path / "large.png", title="Nine")
    assert read_png_size(tmp_path / "large.png")[1] > read_png_size(tmp_path / "small.png")[1]


def test_cells_are_drawn_and_more_labels_than_colours_are_fine(tmp_path):
    points = np.random.default_rng(0).normal(size=(240, 2))
    plot_cells(points, [f"type {place % 120}" for place in range(240)], tmp_path / "cells.png", title="Embeddings")
    assert min(read_png_size(tmp_path / "cells.png")) > 300


@pytest.mark.slow
def test_umap_separates_clusters_and_repeats_itself():
    cells = np.random.default_rng(0).normal(size=(60, 8)).astype("float32")
    cells[30:] += 20
    layout = umap_layout(cells, seed=1)
    np.testing.assert_array_equal(layout, umap_layout(cells, seed=1))
    centres = layout[:30].mean(0), layout[30:].mean(0)
    assert np.linalg.norm(centres[0] - centres[1]) > 3 * layout[:30].std(0).max()
