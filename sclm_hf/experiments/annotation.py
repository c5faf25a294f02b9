"""A model in the style of scBERT beside PCA and SVD, on annotation."""

from functools import partial
from typing import Any

import numpy as np

from ..errors import require
from ..evaluation.baselines.baseline import log1p_cp10k
from ..evaluation.splits import stratified_splits
from .cells import labels_of, of_variable_genes, read_cells, written
from .experiment import Experiment, Piece
from .models import UNTRAINED, baselines, embedding, fine_tuned, pretrained, probed, tested
from .tables import annotation_page

DATASETS = ("pbmc_3tech_symphony_1200", "pbmc68k_reduced_counts")


def run(piece: Piece) -> dict[str, Any]:
    """Labels of a fifth of the cells of a data set, by methods that learn from the rest."""
    cells = of_variable_genes(read_cells(piece, piece.setting), piece.size.n_genes)
    labels = labels_of(cells)
    (split,) = stratified_splits(labels, seeds=[piece.seed])
    file = written(cells[split.train], piece, "train")
    model = pretrained(piece, "performer", [file])
    untrained = pretrained(piece, "performer", [file], *UNTRAINED, name="untrained")
    predicted = baselines(cells, split)
    predicted["SVD + LR"] = probed(singular_vectors(cells.X, split.train, piece.seed), labels, split)
    predicted["scBERT untrained, probe"] = probed(embedding(cells, untrained), labels, split)
    predicted["scBERT pre-trained, probe"] = probed(embedding(cells, model), labels, split)
    predicted["scBERT pre-trained, fine-tuned"] = fine_tuned(piece, model, cells, split)
    return tested(cells, split, predicted)


def singular_vectors(counts: Any, train: np.ndarray, seed: int, n_components: int = 50) -> np.ndarray:
    """(n_cells, components) log-normalised counts, not centred, along singular vectors of the cells to train on."""
    decomposition = require("sklearn.decomposition", extra="evaluation")
    expression = log1p_cp10k(counts)
    fitted = decomposition.TruncatedSVD(n_components, random_state=seed).fit(expression[train])
    return fitted.transform(expression)


EXPERIMENT = Experiment(
    name="annotation",
    title="A model in the style of scBERT beside PCA and SVD",
    question="Does a masked model with Performer attention label cells better than linear methods on the same cells?",
    datasets=DATASETS,
    settings=DATASETS,
    run=run,
    report=partial(annotation_page, reference="PCA + LR"),
    methods=(
        "Each seed holds out a fifth of the cells, evenly over labels; all else, pre-training included, sees the "
        "other four fifths.",
        "PCA + LR, z-scored LR: logistic regression on 50 principal components or z-scores of log-normalised counts. "
        "SVD + LR: on 50 singular vectors, not centred.",
        "Probe: logistic regression on the frozen embedding (`untrained` = before the first step). Fine-tuned: all "
        "weights learn the labels, in five times as many steps.",
    ),
)
