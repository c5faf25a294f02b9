"""Objectives of pre-training compared, on the same cells in about the same time."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..evaluation.baselines.baseline import log1p_cp10k
from ..evaluation.splits import few_shot_splits
from .cells import LABEL, labels_of, of_genes, of_variable_genes, read_cells, written
from .experiment import FULL, Experiment, Page, Piece, Table
from .models import UNTRAINED, baselines, embedding, pretrained, probed, tested
from .tables import annotation_page, compared, verdict

if TYPE_CHECKING:
    from anndata import AnnData

CORPUS = ("covid_balf_liao", "pbmc_citeseq_400", "kang_muscat_labelled", "pbmc_3tech_symphony_1200")
TARGETS = {"symphony": "pbmc_3tech_symphony_1200", "kang": "kang_muscat_labelled"}
OF_LABELS = ("--label_column", LABEL, "--ontology", "blood", "--unknown_labels", "drop")
LABELS, VIEWS = ("--objective", "supervised", *OF_LABELS), ("--objective", "contrastive", "--augment", "{}")


class Objective(NamedTuple):
    """An objective of pre-training.

    Attributes:
        recipe: name of a file in `recipes`, which says the encoder.
        flags: what differs from it.
        steps: of training, so many that all objectives take about the same time.
    """

    recipe: str
    flags: tuple[str, ...]
    steps: int = 1


OBJECTIVES = {
    "untrained": Objective("dense", UNTRAINED),
    "masked bins": Objective("dense", ("--objective", "masked"), 540),
    "masked values": Objective("values", ("--objective", "masked"), 510),
    "generative": Objective("dense", ("--objective", "generative"), 460),
    "contrastive": Objective("dense", VIEWS, 460),
    "labels": Objective("dense", LABELS, 640),
    "labels + values": Objective("dense", (*LABELS, "--denoising_weight", "0.3"), 570),
    "labels + contrastive": Objective("dense", (*VIEWS, *OF_LABELS), 450),
    "untrained, values": Objective("values", UNTRAINED),
    "untrained, causal": Objective("causal", UNTRAINED),
    "next gene, causal": Objective("causal", (), 750),
    "labels, causal": Objective("causal", LABELS, 850),
}


VALUES = "values"
"""The recipe that reads log-normalised values."""


def run(piece: Piece) -> dict[str, Any]:
    """Labels from five cells each by probes on frozen embeddings, and the CPU-seconds of each training."""
    target = TARGETS[piece.setting]
    cells = of_variable_genes(read_cells(piece, target), piece.size.n_genes)
    (split,) = few_shot_splits(labels_of(cells), per_label=5, seeds=[piece.seed])
    corpus = {one: of_genes(read_cells(piece, one), cells.var_names) for one in CORPUS if one != target}
    counts = [written(one, piece, name) for name, one in corpus.items()]
    values = [written(logged(one), piece, f"{name}-log") for name, one in corpus.items()]
    predicted, seconds = baselines(cells, split), {}
    for name, objective in OBJECTIVES.items():
        has_values = objective.recipe == VALUES
        steps = ("--max_steps", str(max(objective.steps * piece.size.n_steps // FULL.n_steps, 1)))
        start = time.process_time()
        model = pretrained(
            piece, objective.recipe, values if has_values else counts, *steps, *objective.flags, name=name
        )
        seconds[name] = round(time.process_time() - start, 1)
        features = embedding(logged(cells) if has_values else cells, model)
        predicted[f"{name}, probe"] = probed(features, labels_of(cells), split)
    return tested(cells, split, predicted) | {"seconds": seconds}


def logged(cells: "AnnData") -> "AnnData":
    """The cells with log-normalised values instead of counts."""
    cells = cells.copy()
    cells.X = log1p_cp10k(cells.X).astype(np.float32)
    return cells


def page(found: Mapping[str, Mapping[int, dict[str, Any]]]) -> Page:
    """As of annotation; then whether training did any good, and what each took."""
    page = annotation_page(found, reference="PCA + LR")
    for setting, seeds in found.items():
        for twin in (name for name in OBJECTIVES if name.startswith("untrained")):
            recipe = OBJECTIVES[twin].recipe
            names = [f"{name}, probe" for name, one in OBJECTIVES.items() if one.recipe == recipe]
            same = {
                seed: one | {"predicted": {name: one["predicted"][name] for name in names}}
                for seed, one in seeds.items()
            }
            told = verdict(compared(same, f"{twin}, probe"), f"{twin}, probe")
            page.answers.append(f"{setting}, macro-F1, encoder `{recipe}`: {told}")
    page.tables.append(times(found))
    return page


def times(found: Mapping[str, Mapping[int, dict[str, Any]]]) -> Table:
    """Steps and CPU-seconds of each training."""
    runs = [one["seconds"] for seeds in found.values() for one in seeds.values()]
    rows = []
    for name, objective in OBJECTIVES.items():
        spent = [one[name] for one in runs]
        rows.append([name, objective.recipe, str(objective.steps), f"{np.mean(spent):.1f}"])
        rows[-1].append(f"{min(spent):.1f} to {max(spent):.1f}")
    head = ["objective", "encoder", "steps of 16 cells", "CPU-seconds", "from, to"]
    return Table("What each training took", head, rows, f"Over {len(runs)} trainings each, with reading the cells.")


EXPERIMENT = Experiment(
    name="objectives",
    title="Objectives of pre-training compared",
    question="Which objective makes an embedding that labels cells of another study, with the same cells, encoder and "
    "time of a processor?",
    datasets=CORPUS,
    settings=tuple(TARGETS),
    run=run,
    report=page,
    methods=(
        f"Settings are targets: {' and '.join(f'`{name}` ({file})' for name, file in TARGETS.items())}. Models are "
        f"trained on the others of {', '.join(CORPUS)}. Five random cells of each label of the target teach a "
        "logistic regression on the frozen embedding, all others are tested.",
        "`dense` is a small scGPT, `values` the same with log-normalised values instead of bins, `causal` a tGPT of "
        "the same size, as no other is asked for the next gene. `untrained` = before the first step.",
        "`masked` and `generative` are scGPT's (squared error of the bin or value). `contrastive`: two thinned views "
        "of each cell. `labels`: the cell types of the corpus by an ontology. `labels + values` tells the values of a "
        "cell's genes from its embedding besides, with weight 0.3; in `labels + contrastive` cells of the same label "
        "lie close together too.",
        "Each objective has so many steps that all took about the same time on the machine where that was set: see "
        "the last table, not the 60 steps below.",
        "With more cells, 3,000 genes and longer training on seven data sets: [evidence]"
        "(../../benchmarks/results/evidence_scgpt.json), by `benchmarks/evidence.py`.",
    ),
)
