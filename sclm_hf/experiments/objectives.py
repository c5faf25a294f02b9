"""Objectives of pre-training compared, with the same encoder, cells and steps."""

from functools import partial
from typing import Any

from ..evaluation.splits import few_shot_splits
from .cells import LABEL, labels_of, of_genes, of_variable_genes, read_cells, written
from .experiment import Experiment, Piece
from .models import UNTRAINED, baselines, embedding, pretrained, probed, tested
from .tables import annotation_page

CORPUS = ("covid_balf_liao", "pbmc_citeseq_400", "kang_muscat_labelled")
TARGET = "pbmc_3tech_symphony_1200"
OBJECTIVES = {
    "untrained": UNTRAINED,
    "masked": ("--objective", "masked"),
    "generative": ("--objective", "generative"),
    "contrastive": ("--objective", "contrastive", "--augment", "{}"),
    "labels": (
        "--objective",
        "supervised",
        "--label_column",
        LABEL,
        "--ontology",
        "blood",
        "--unknown_labels",
        "drop",
    ),
}


def run(piece: Piece) -> dict[str, Any]:
    """Labels from five cells each by probes on frozen embeddings."""
    cells = of_variable_genes(read_cells(piece, TARGET), piece.size.n_genes)
    (split,) = few_shot_splits(labels_of(cells), per_label=5, seeds=[piece.seed])
    files = [written(of_genes(read_cells(piece, one), cells.var_names), piece, one) for one in CORPUS]
    predicted = baselines(cells, split)
    for name, flags in OBJECTIVES.items():
        model = pretrained(piece, piece.setting, files, *flags, name=name)
        predicted[f"{name}, probe"] = probed(embedding(cells, model), labels_of(cells), split)
    return tested(cells, split, predicted)


EXPERIMENT = Experiment(
    name="objectives",
    title="Objectives of pre-training compared",
    question="Which objective makes an embedding that labels cells of another study, with the same encoder, cells and "
    "steps?",
    datasets=(*CORPUS, TARGET),
    settings=("dense",),
    run=run,
    report=partial(annotation_page, reference="PCA + LR"),
    methods=(
        f"A small scGPT, trained on {', '.join(CORPUS)} and scored on {TARGET}: five random cells of each label teach "
        "a logistic regression on the frozen embedding (zero-shot), all others are tested.",
        "`labels` learns the cell types of the corpus by an ontology; `contrastive` two thinned views of each cell, "
        "without labels; `masked` and `generative` are scGPT's. `untrained` = before the first step.",
        "With more cells, 3,000 genes and longer training on seven data sets: [evidence]"
        "(../../benchmarks/results/evidence_scgpt.json), by `benchmarks/evidence.py`.",
    ),
)
