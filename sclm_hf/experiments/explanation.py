"""Explanations of small annotators, tested by deleting and inserting genes, and by training again."""

from itertools import combinations
from typing import Any

import numpy as np

from ..evaluation.plots import plot_methods
from ..evaluation.splits import stratified_splits
from ..tasks.annotate import annotate
from ..tasks.explain import METHODS, explain
from ..tasks.explanation.curves import RANDOM
from .cells import labels_of, of_variable_genes, read_cells, written
from .experiment import Experiment, Found, Page, Piece, Table
from .models import fine_tuned_folder, pretrained
from .tables import told

DATASETS = ("pbmc_3tech_symphony_1200", "pbmc68k_reduced_counts", "covid_balf_liao")
N_BEST, MOST_CELLS = 20, 8


def run(piece: Piece) -> dict[str, Any]:
    """The curves of explanations of cells that the annotator was not trained on, and the best genes of each class."""
    cells = of_variable_genes(read_cells(piece, piece.setting), piece.size.n_genes)
    (split,) = stratified_splits(labels_of(cells), seeds=[piece.seed])
    model = pretrained(piece, "dense", [written(cells[split.train], piece, "train")])
    folder = fine_tuned_folder(piece, model, cells, split)
    table = explain(
        cells[split.test].copy(), folder, methods=",".join(METHODS), max_cells=MOST_CELLS, n_steps=16, seed=piece.seed
    )
    predicted = annotate(cells[split.test].copy(), folder).obs["sclm_prediction"].to_numpy(str)
    best = table.dropna().groupby(["label", "method"], sort=False).head(N_BEST)
    genes: dict[str, dict[str, list[str]]] = {}
    for (label, method), part in best.groupby(["label", "method"]):
        genes.setdefault(method, {})[label] = part["gene"].tolist()
    n_genes = int(table.groupby(["label", "method"]).size().median())
    accuracy = float(np.mean(predicted == labels_of(cells)[split.test]))
    return {"curves": table.attrs["curves"], "genes": genes, "n_genes": n_genes, "accuracy": accuracy}


def report(found: Found) -> Page:
    """Areas under the curves for each data set, and how many of the best genes stay when training is repeated."""
    page, panels = Page([], [], {}, {}), {}
    for setting, seeds in found.items():
        curves = {one["method"]: [] for one in next(iter(seeds.values()))["curves"]}
        for seed in seeds.values():
            for one in seed["curves"]:
                curves[one["method"]].append(one)
        rows = [[name, *_areas(records), _kept(seeds, name)] for name, records in curves.items()]
        head = [
            "order",
            "deletion (low is good)",
            "gain",
            "insertion (high is good)",
            "gain",
            f"of {N_BEST} genes stay",
        ]
        by_chance = np.mean([N_BEST**2 / one["n_genes"] for one in seeds.values()])
        accuracy = np.mean([one["accuracy"] for one in seeds.values()])
        note = (
            f"Means over {len(seeds)} seeds; the annotators label {accuracy:.0%} of the cells held out as "
            "their data set does. Gains are over the random order, with the lowest and highest end of their 95 % "
            f"intervals over cells in any seed. Of {N_BEST} genes {by_chance:.1f} would stay by chance."
        )
        page.tables.append(Table(setting, head, rows, note))
        for what in ("deletion", "insertion"):
            gains = {f"{name} ({one[0]:+.2f})": one[1:] for name, one in _gains(curves, what).items()}
            page.answers.append(f"{setting}, area of {what}, with all seeds: {told(gains, 'a random order')}")
        page.numbers[setting] = curves
        panels[setting] = [(name.replace("_", " "), *_gain(records, "deletion")) for name, records in curves.items()]
    figure = plot_methods(panels, "area of deletion: gain over a random order")[0].figure
    page.figures["deletion"] = (figure, "How much sooner than in a random order the class is lost; see the table.")
    return page


def _gains(curves: dict[str, list[dict[str, Any]]], what: str) -> dict[str, tuple[float, float, float]]:
    """Order -> its mean gain over a random one, and the ends of its intervals; the random order not."""
    return {name: _gain(records, what) for name, records in curves.items() if name != RANDOM}


def _gain(records: list[dict[str, Any]], what: str) -> tuple[float, float, float]:
    mean = np.mean([one[f"{what}_gain"] for one in records])
    return mean, min(one[f"{what}_gain_low"] for one in records), max(one[f"{what}_gain_high"] for one in records)


def _areas(records: list[dict[str, Any]]) -> list[str]:
    cells = []
    for what in ("deletion", "insertion"):
        mean, low, high = _gain(records, what)
        cells += [f"{np.mean([one[what] for one in records]):.3f}", f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"]
    return cells


def _kept(seeds: dict[int, dict[str, Any]], method: str) -> str:
    """Of the best genes of a class, how many are so with two seeds, on average over classes and pairs of seeds."""
    shared = []
    for one, other in combinations([seed["genes"].get(method, {}) for seed in seeds.values()], 2):
        shared += [len(set(one[label]) & set(other[label])) for label in one.keys() & other.keys()]
    return f"{np.mean(shared):.1f}" if shared else ""


EXPERIMENT = Experiment(
    name="explanation",
    title="What explanations hold up",
    question="Do gradients, knock-outs and attention name the genes that an annotator's labels hang on, and the same "
    "ones when it is trained again?",
    datasets=DATASETS,
    settings=DATASETS,
    run=run,
    report=report,
    methods=(
        "A small scGPT is pre-trained by masking and fine-tuned (all weights, five times as many steps) on four "
        "fifths of the cells; explained is the class that it predicts for the others, at most "
        f"{MOST_CELLS} cells per class (`sclm-hf explain`).",
        "Genes are deleted from a cell, or put in, in the order of their scores; `random` and `expression` are orders "
        "that need no explanation. The probability of the class should fall soon, or rise soon.",
        f"The best {N_BEST} genes of a class, by their mean score, are compared between seeds, which differ in the "
        "split, the new weights and the order of training.",
    ),
)
