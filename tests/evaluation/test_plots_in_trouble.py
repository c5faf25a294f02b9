"""Pictures of what real data bring: many classes with long names, none, missing values, names that lie together.

No text may leave the figure or cover another one.
"""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from sclm_hf.errors import ConfigurationError
from sclm_hf.evaluation import plots
from sclm_hf.evaluation.plots.drawing import in_order
from sclm_hf.tokenization.genes.gene_coverage import GeneCoverage

LONG = "CD4-positive, alpha-beta memory T cell"
RANDOM = np.random.default_rng(0)
POINTS = RANDOM.normal(size=(400, 2))
NAMES = [f"{LONG[: 4 + 3 * (place % 12)].strip()} {place}" for place in range(35)]
LABELS = np.array(NAMES, object)[np.arange(400) % 35]
GENES = [f"ENSG{place:011d}" if place % 3 else f"GENE{place}" for place in range(60)]
CURVES = [
    {"method": name, "deletion_curve": [1, 0], "insertion_curve": [0, 1]}
    | {f"{what}{end}": 0.5 for what in ("deletion", "insertion") for end in ("", "_low", "_high")}
    for name in ("random", "expression", "integrated_gradients", "knock_out", "attention")
]
ROWS = [(f"{LONG}, with partners {place}", 0.5, 0.4, 0.6) for place in range(9)]


def edges(n_regulators, n_edges):
    regulators = [GENES[place % n_regulators] for place in range(n_edges)]
    targets = [GENES[n_regulators + (7 * place) % 40] for place in range(n_edges)]
    return pd.DataFrame(
        {"regulator": regulators, "target": targets, "sign": pd.array(([1, -1, None] * 20)[:n_edges], "Int8")}
    )


def matrix(n_classes, n_cells):
    counts = RANDOM.multinomial(n_cells, np.full(n_classes, 1 / n_classes), n_classes) * (RANDOM.random() > 0)
    counts[0] = 0
    return counts


def history(n_steps):
    records = [{"step": place, "loss": 2 / place if place % 9 else float("nan")} for place in range(1, n_steps)]
    return [*records, {"step": n_steps, "loss": 0.1, "eval_loss": 0.2, "eval_probe_macro_f1": 0.9}]


def coverage(n_missing):
    missing = tuple(f"ENSG{place:011d}" for place in range(n_missing))
    return GeneCoverage(n_missing + 2, ("CD3D",), (("ATP5E", "ATP5F1E"),), (), (), missing, 0.123)


SCORES = {name: RANDOM.random(4) for name in ("nmi", "isolated_labels", "asw_batch", "graph_connectivity", "total")}
LOW_RATES = np.where(np.arange(60) < 12, 0.0, RANDOM.random(60))
TROUBLE = {
    "35 classes with long names": lambda: plots.plot_confusion(matrix(35, 9), NAMES, title=LONG, note="tested once"),
    "2 classes, one empty": lambda: plots.plot_confusion(np.array([[0, 0], [12345, 3]]), ["B", LONG], title="Two"),
    "predictions of other names": lambda: plots.plot_confusion(
        np.arange(15).reshape(5, 3), NAMES[:5], title="Other names", predicted_names=NAMES[10:13]
    ),
    "counts of a million": lambda: plots.plot_confusion(np.full((4, 4), 1234567), NAMES[:4], title="Many"),
    "1 class": lambda: plots.plot_confusion(np.array([[3]]), ["B"], title=LONG),
    "35 labels on cells": lambda: plots.plot_cells(POINTS, LABELS, title=LONG),
    "labels missing": lambda: plots.plot_cells(POINTS, np.where(POINTS[:, 0] > 0, None, LABELS), title="Some"),
    "all labels missing": lambda: plots.plot_cells(POINTS, np.full(400, np.nan), title="None"),
    "2 labels, marked": lambda: plots.plot_cells(POINTS, ["B", LONG] * 200, title="Two", marked=POINTS[:, 0] > 0),
    "50,000 cells": lambda: plots.plot_cells(np.tile(POINTS, (125, 1)), np.tile(LABELS, 125), title="Many"),
    "values missing": lambda: plots.plot_cell_values(
        POINTS, np.where(POINTS[:, 0] > 0, 0.5, np.nan), title=LONG, scale="probability of the label"
    ),
    "names that lie together": lambda: plots.plot_volcano(
        np.r_[np.full(12, 0.08), RANDOM.normal(0, 0.02, 48)], LOW_RATES, GENES, xlabel="shift to stimulated (cosine)"
    ),
    "nothing tested": lambda: plots.plot_volcano([np.nan] * 3, [np.nan] * 3, "abc"),
    "60 edges": lambda: plots.plot_network(edges(12, 60)),
    "3 edges": lambda: plots.plot_network(edges(3, 3)),
    "5 orders of genes": lambda: plots.plot_explanation(CURVES, [0, 1])[0],
    "9 methods, 6 panels": lambda: plots.plot_methods({f"{LONG} {place}": ROWS for place in range(6)}, "macro-F1")[0],
    "1 panel": lambda: plots.plot_methods({LONG: ROWS}, "macro-F1 with 95 % interval over cells")[0],
    "lines": lambda: plots.plot_lines({("tokens", "seconds"): {LONG: np.array([[1, 2, 900], [3, 4, 1e6]])}}, log=True)[
        0
    ],
    "embeddings with long names": lambda: plots.plot_integration({"embedding": [*NAMES[10:13], "PCA"], **SCORES}),
    "35 domains, 4 slices": lambda: plots.plot_tissue(
        POINTS * [1, 30], LABELS, slices=[f"{LONG} {place % 4}" for place in range(400)]
    ),
    "21 domains in a row of slices": lambda: plots.plot_tissue(
        POINTS, LABELS[np.arange(400) % 21], slices=[f"slice number {place % 4} of a tumour" for place in range(400)]
    ),
    "flat tissue": lambda: plots.plot_tissue(POINTS * [30, 1], pd.Categorical(["a", None] * 200, ["a", "b"])),
    "one cell": lambda: plots.plot_tissue(POINTS[:1], ["x"]),
    "many steps, some not finite": lambda: plots.plot_training(history(400), title=LONG)[0],
    "two steps": lambda: plots.plot_training(history(2), title=LONG)[0],
    "calibration": lambda: plots.plot_calibration(RANDOM.random(5000), RANDOM.random(5000) > 0.5),
    "calibration of one bin": lambda: plots.plot_calibration([0.99, np.nan], [True, False]),
    "few genes known": lambda: plots.plot_coverage(coverage(20000)),
    "all genes known": lambda: plots.plot_coverage(coverage(0)),
}


def drawn_texts(figure):
    """Corners of each text that is seen, in pixels; those that are written at a slant are left out."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    texts = [one for one in figure.findobj(Text) if one.get_text().strip() and one.get_visible()]
    on_axes = {id(one) for axes in figure.axes if axes.axison for one in axes.findobj(Text)}
    free = {id(one) for one in figure.texts} | {id(one) for axes in figure.axes for one in axes.texts}
    free |= {id(one) for axes in figure.axes if axes.get_legend() for one in axes.get_legend().texts}
    ticks = {id(one) for axes in figure.axes for one in _hidden_ticks(axes)}
    seen = [one for one in texts if id(one) in on_axes | free and id(one) not in ticks]
    return [(one.get_text(), one.get_window_extent()) for one in seen if one.get_rotation() % 90 == 0]


def _hidden_ticks(axes):
    """Labels of ticks beyond the limits, which matplotlib keeps and does not draw."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in axis.get_major_ticks() + axis.get_minor_ticks():
            if not low <= tick.get_loc() <= high:
                yield from (tick.label1, tick.label2)


def _leaves(box, frame):
    return box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1


MANY = {"35 classes with long names", "35 labels on cells", "50,000 cells", "60 edges", "labels missing"}


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.slow if one in MANY else ()) for one in TROUBLE])
def test_no_text_leaves_the_figure_or_covers_another(name):
    figure = TROUBLE[name]().figure
    texts = drawn_texts(figure)
    assert texts
    frame = figure.bbox.padded(2)
    outside = [text for text, box in texts if _leaves(box, frame)]
    assert not outside, outside[:5]
    # a pixel on either side belongs to nobody
    covered = [
        (one, other)
        for (one, box), (other, other_box) in combinations(texts, 2)
        if box.padded(-1).overlaps(other_box.padded(-1))
    ]
    assert not covered, covered[:5]


@pytest.mark.slow
def test_slanted_labels_are_far_enough_from_one_another():
    axes = plots.plot_confusion(matrix(35, 9), NAMES, title="Slanted")
    axes.figure.draw_without_rendering()
    places = [axes.transData.transform((place, 0))[0] for place in (0, 1)]
    height = axes.get_xticklabels()[0].get_fontsize() * axes.figure.dpi / 72
    assert (places[1] - places[0]) * np.sin(np.pi / 4) > height


def test_numbers_in_names_are_ordered_as_numbers():
    assert in_order(np.array(["10", "2", "B 11", "B 9", "A"])) == ["2", "10", "A", "B 9", "B 11"]


def test_missing_labels_are_grey_and_named():
    axes = plots.plot_cells(POINTS[:4], ["B", None, np.nan, "T"], title="Some")
    assert [text.get_text() for text in axes.get_legend().texts] == ["no label (2)", "B (1)", "T (1)"]


def test_calibration_error_is_the_mean_distance_from_the_diagonal():
    axes = plots.plot_calibration([0.95, 0.95, 0.55, 0.55], [True, True, True, False], n_bins=10)
    assert axes.get_title(loc="left") == "4 cells, calibration error 0.050"
    with pytest.raises(ConfigurationError, match="from 0 to 1"):
        plots.plot_calibration([], [])
