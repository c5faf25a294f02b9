import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sclm_hf.errors import ConfigurationError
from sclm_hf.evaluation.plots import (
    order_of_labels,
    plot_cell_values,
    plot_cells,
    plot_confusion,
    plot_explanation,
    plot_integration,
    plot_lines,
    plot_methods,
    plot_network,
    plot_tissue,
    plot_training,
    plot_volcano,
    umap_layout,
)
from sclm_hf.evaluation.plots.drawing import check_image, save_figure


def read_png_size(path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


@pytest.fixture
def saved(monkeypatch, tmp_path):
    """The figures that were written."""
    monkeypatch.chdir(tmp_path)
    figures = []

    def keep(figure, path, **_):
        path.touch()
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def evaluated(steps=200, every=5):
    losses = [{"step": step, "loss": 100 / step} for step in range(every, steps + 1, every)]
    return [*losses, {"step": 100, "eval_loss": 2.0, "eval_probe_macro_f1": 0.5}]


def test_pictures_are_written(tmp_path):
    plot_training(evaluated(), tmp_path / "plots" / "training.png", title="Pre-training")
    plot_confusion(np.eye(2, dtype=int), ["B", "T"], tmp_path / "small.png", title="Two")
    plot_confusion(np.eye(9, dtype=int), list("abcdefghi"), tmp_path / "large.png", title="Nine")
    assert min(read_png_size(tmp_path / "plots" / "training.png")) > 300
    assert read_png_size(tmp_path / "large.png")[1] > read_png_size(tmp_path / "small.png")[1]


def test_an_image_is_written_whole_and_its_name_says_how(tmp_path, monkeypatch):
    figure = Figure()
    for suffix in ("png", "svg", "PDF"):
        check_image(tmp_path / f"a.{suffix}")
        save_figure(figure, tmp_path / "new" / f"a.{suffix}")
    for name in ("a.doc", "a"):
        with pytest.raises(ConfigurationError, match=r"`a.*` must be named as an image is"):
            check_image(name)
    before = (tmp_path / "new" / "a.png").read_bytes()
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: path.write_bytes(b"half") / 0)
    with pytest.raises(ZeroDivisionError):
        save_figure(figure, tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").read_bytes() == before and len(list((tmp_path / "new").iterdir())) == 3


def test_a_probe_has_a_panel_of_its_own_and_losses_of_wide_range_are_logarithmic(saved):
    plot_training(evaluated(), "training.png", title="Pre-training")
    losses, probe = saved[0].axes
    assert losses.get_yscale() == "log" and "validation" in [text.get_text() for text in losses.get_legend().texts]
    assert probe.get_ylim() == (0, 1) and "macro-F1" in probe.get_ylabel()


def test_the_legend_says_over_how_many_steps_a_curve_is_a_mean(saved):
    plot_training([{"step": 10 * place, "loss": 1.0} for place in range(1, 101)], "training.png", title="Long")
    (axes,) = saved[0].axes
    assert [text.get_text() for text in axes.get_legend().texts] == ["training, mean of 50 steps"]


def test_labels_taken_for_one_another_stand_side_by_side_with_totals_and_recall(saved):
    matrix = np.array([[6, 0, 2, 0], [0, 5, 0, 5], [4, 0, 4, 0], [0, 3, 0, 7]])
    order = order_of_labels(matrix).tolist()
    assert sorted([order[:2], order[2:]], key=min) in (
        [[0, 2], [1, 3]],
        [[2, 0], [1, 3]],
        [[0, 2], [3, 1]],
        [[2, 0], [3, 1]],
    )
    plot_confusion(matrix, list("abcd"), "confusion.png", title="Four", note="each cell tested once")
    written = [text.get_text() for text in saved[0].axes[0].texts]
    assert {"tested", "recall", "0.75", "8", "10"} <= set(written)
    assert "each cell tested once" in [text.get_text() for text in saved[0].texts]


def test_cells_are_drawn_and_more_labels_than_colours_are_fine(tmp_path):
    points = np.random.default_rng(0).normal(size=(240, 2))
    plot_cells(points, [f"type {place % 120}" for place in range(240)], tmp_path / "cells.png", title="Embeddings")
    assert min(read_png_size(tmp_path / "cells.png")) > 300


def test_training_cells_are_marked_and_axes_are_named(saved):
    points, labels = np.random.default_rng(0).normal(size=(20, 2)), ["B", "T"] * 10
    plot_cells(points, labels, "cells.png", title="Embeddings", marked=np.arange(20) < 5)
    (axes,) = saved[0].axes
    legend = [text.get_text() for text in axes.get_legend().texts]
    assert legend == ["B (10)", "T (10)", "black edge: training cells (5)"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("UMAP 1", "UMAP 2")


def test_cells_are_coloured_by_a_value_on_a_whole_scale():
    axes = plot_cell_values(np.eye(3, 2), np.array([0.2, 0.9, 0.4]), title="Confidence", scale="probability")
    (drawn,) = axes.collections
    assert drawn.get_array().tolist() == [0.2, 0.4, 0.9] and drawn.get_clim() == (0, 1)


def test_a_hundred_labels_have_marks_of_their_own(saved):
    points = np.zeros((100, 2))
    plot_cells(points, [f"{place:03d}" for place in range(100)], "cells.png", title="Embeddings")
    handles = saved[0].axes[0].get_legend().legend_handles
    looks = {(tuple(one.get_facecolor()[0]), one.get_paths()[0].vertices.tobytes()) for one in handles}
    assert len(looks) == 100


def test_a_volcano_names_the_lowest_rates_and_leaves_out_what_was_not_tested():
    effects, rates = np.array([0.3, -0.2, 0.1, np.nan, 0]), np.array([0.0, 0.01, 0.4, 0.001, np.nan])
    axes = plot_volcano(effects, rates, list("abcde"), xlabel="shift")
    assert [text.get_text() for text in axes.texts] == ["a", "b"]
    assert [len(points.get_offsets()) for points in axes.collections] == [1, 1, 1]
    assert axes.get_title(loc="left").startswith("3 tested, 2 at a rate of 0.05 or less; 1 of a")
    assert axes.get_xlabel() == "shift"
    assert plot_volcano(effects, rates, list("abcde"), n_names=1, axes=axes) is axes


def test_a_network_is_drawn_with_names_and_signs():
    edges = pd.DataFrame({"regulator": list("aab"), "target": list("bcd"), "sign": pd.array([1, -1, None], "Int8")})
    axes = plot_network(edges)
    assert [text.get_text() for text in axes.texts] == list("abcd")
    assert len({line.get_color() for line in axes.lines}) == 3
    again = plot_network(edges)
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), again.collections[0].get_offsets())
    assert len(plot_network(edges, n_edges=1).texts) == 2
    with pytest.raises(ConfigurationError, match="no edges"):
        plot_network(edges[:0])


def test_curves_of_an_explanation_stand_side_by_side_with_their_areas():
    areas = {f"{what}{end}": 0.5 for what in ("deletion", "insertion") for end in ("", "_low", "_high")}
    records = [
        {"method": name, "deletion_curve": [1, 0], "insertion_curve": [0, 1], **areas}
        for name in ("random", "knock_out")
    ]
    deletion, insertion = plot_explanation(records, [0, 1])
    legend = [text.get_text() for text in deletion.get_legend().get_texts()]
    assert legend == ["random: 0.500 (0.500 to 0.500)", "knock out: 0.500 (0.500 to 0.500)"]
    assert [line.get_linestyle() for line in insertion.lines] == [":", "-"]
    assert insertion.lines[0].get_ydata().tolist() == [0, 1]
    with pytest.raises(ConfigurationError, match="no curves"):
        plot_explanation([], [])


def test_methods_have_a_row_in_each_panel_and_the_first_is_dotted_through_all():
    rows = [("PCA", 0.5, 0.4, 0.6), ("model", 0.7, 0.6, 0.8)]
    first, second = plot_methods({"one": rows, "two": rows}, "score")
    assert [label.get_text() for label in first.get_yticklabels()] == ["PCA", "model"]
    assert {label.get_text() for label in second.get_yticklabels()} == {""}
    assert first.lines[0].get_linestyle() == ":" and list(first.lines[0].get_xdata()) == [0.5, 0.5]
    assert first.get_ylim() == (1.5, -0.5)
    short = plot_methods({"one": rows[1:], "two": rows}, "score")
    assert [label.get_text() for label in short[0].get_yticklabels()] == ["PCA", "model"]
    assert list(short[0].lines[1].get_ydata()) == [1]
    grid = plot_methods(dict.fromkeys("abcdef", rows), "score")
    assert [one.get_title(loc="left") for one in grid] == [*"abcdef"] and len(grid[0].figure.axes) == 8
    assert [one.get_yticklabels()[0].get_text() for one in grid] == ["PCA", "", "", "", "PCA", ""]


def test_lines_have_names_axes_and_bands():
    lines = {"with": np.array([[1, 2], [3, 4], [2, 3], [4, 5]]), "without": np.array([[1, 2], [3, 4]])}
    (axes,) = plot_lines({("tokens", "seconds"): lines}, log=True)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("tokens", "seconds", "log")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["with", "without"]
    assert len(axes.collections) == 1


def test_scores_of_integration_have_a_row_for_each_embedding():
    scores = {"embedding": ["PCA", "X"], "nmi": [0.5, 0.9], "asw_batch": [0.1, np.nan], "total": [0.3, 0.9]}
    axes = plot_integration(scores)
    assert [text.get_text() for text in axes.texts] == ["0.50", "0.10", "0.30", "0.90", "–", "0.90"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["PCA", "X"] and len(axes.lines) == 1


def test_slices_of_tissue_stand_side_by_side():
    places = np.array([[5, 5], [6, 7], [5, 5], [6, 7]])
    axes = plot_tissue(places, ["x", "y", "y", "y"], slices=list("aabb"))
    one, other = (points.get_offsets() for points in axes.collections)
    assert one.tolist() == [[0, 0]] and other[:, 0].tolist() == [1, 1.1, 2.1] and other[:, 1].tolist() == [2, 0, 2]
    assert [text.get_text() for text in axes.texts] == ["a", "b"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["x (1)", "y (3)"]
    assert plot_tissue(places, pd.Categorical(["2", "10", "2", "2"], ["2", "10"]), axes=axes) is axes
    with pytest.raises(ConfigurationError, match="finite"):
        plot_tissue(np.full((2, 2), np.nan), ["x", "y"])


@pytest.mark.slow
def test_umap_separates_clusters_and_repeats_itself():
    cells = np.random.default_rng(0).normal(size=(60, 8)).astype("float32")
    cells[30:] += 20
    layout = umap_layout(cells, seed=1)
    np.testing.assert_array_equal(layout, umap_layout(cells, seed=1))
    centres = layout[:30].mean(0), layout[30:].mean(0)
    assert np.linalg.norm(centres[0] - centres[1]) > 3 * layout[:30].std(0).max()


def test_plots_are_reached_by_their_short_name_and_return_axes():
    from sclm_hf import pl

    assert pl.plot_confusion(np.eye(2, dtype=int), ["B", "T"], title="Two").get_xlabel() == "predicted"
    assert next(axes.get_ylabel() for axes in pl.plot_training(evaluated(), title="Long")) == "loss"
