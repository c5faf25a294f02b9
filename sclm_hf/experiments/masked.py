"""Masked prediction of expression on real blood cells, then annotation and batch correction."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..evaluation.splits import Split
from .cells import BATCH, labels_of, of_variable_genes, read_cells, written
from .experiment import Experiment, Page, Piece
from .integration import scores_of
from .models import UNTRAINED, baselines, embedding, fine_tuned, pretrained, probed, tested
from .tables import annotation_page, scores_page

CELLS, HELD_OUT = "pbmc_3tech_symphony_1200", "5p"
ANNOTATION, CORRECTION = "annotation", "batch correction"


def run(piece: Piece) -> dict[str, Any]:
    """A model that learnt masked expression: labels of a platform that taught none, or how batches mix."""
    cells = of_variable_genes(read_cells(piece, CELLS), piece.size.n_genes)
    held_out = cells.obs[BATCH].to_numpy(str) == HELD_OUT
    split = Split("platform", np.flatnonzero(~held_out), np.flatnonzero(held_out))
    seen = cells[split.train] if piece.setting == ANNOTATION else cells
    file = written(seen, piece, "cells")
    models = {
        "scBERT untrained": pretrained(piece, "performer", [file], *UNTRAINED, name="untrained"),
        "scBERT pre-trained": pretrained(piece, "performer", [file]),
    }
    embeddings = {name: embedding(cells, model) for name, model in models.items()}
    if piece.setting == CORRECTION:
        return {"scores": scores_of(cells, embeddings, piece.seed)}
    predicted = baselines(cells, split)
    for name, features in embeddings.items():
        predicted[f"{name}, probe"] = probed(features, labels_of(cells), split)
    predicted["scBERT pre-trained, fine-tuned"] = fine_tuned(piece, models["scBERT pre-trained"], cells, split)
    return tested(cells, split, predicted)


def report(found: Mapping[str, Mapping[int, dict[str, Any]]]) -> Page:
    """The tables of both tasks."""
    first = annotation_page({ANNOTATION: found[ANNOTATION]}, reference="PCA + LR")
    second = scores_page({CORRECTION: found[CORRECTION]}, reference="PCA")
    return Page(
        first.answers + second.answers,
        first.tables + second.tables,
        first.figures | second.figures,
        first.numbers | second.numbers,
    )


EXPERIMENT = Experiment(
    name="masked",
    title="Masked prediction of expression on blood cells, then annotation and batch correction",
    question="Does a model that learns to predict masked expression of blood cells, without labels, know their types "
    "and mix their platforms?",
    datasets=(CELLS,),
    settings=(ANNOTATION, CORRECTION),
    run=run,
    report=report,
    methods=(
        "A small scBERT predicts the bins of masked genes; pre-training and labels are those of 10x 3' v1 and v2, "
        "and the cells of 10x 5' are tested. For batch correction it is pre-trained on all cells.",
        "Probe: logistic regression on the frozen embedding (zero-shot); `untrained` = before the first step. "
        "Fine-tuned: all weights learn the labels, in five times as many steps.",
        "Batch correction: scIB's scores by scib-metrics, higher is better, of each embedding as it is and corrected "
        "by Harmony; labels teach nothing.",
    ),
    needs=("scib_metrics", "harmonypy"),
)
