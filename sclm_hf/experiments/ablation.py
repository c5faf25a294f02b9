"""Positions, values and the identity of genes taken away from small models."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ..evaluation.splits import Split, stratified_splits
from ..opening.loading import LoadedModel, load_model
from .cells import labels_of, of_variable_genes, read_cells, written
from .experiment import Experiment, Piece
from .models import UNTRAINED, baselines, embedding, pretrained, probed, tested
from .tables import annotation_page

if TYPE_CHECKING:
    from anndata import AnnData

DATASET = "pbmc_3tech_symphony_1200"


def with_shuffled_values(cells: "AnnData", seed: int) -> "AnnData":
    """The same genes expressed in each cell, with its counts exchanged among them."""
    cells, rng = cells.copy(), np.random.default_rng(seed)
    for start, end in zip(cells.X.indptr[:-1], cells.X.indptr[1:], strict=True):
        cells.X.data[start:end] = rng.permutation(cells.X.data[start:end])
    return cells


def exchange_genes(loaded: LoadedModel, seed: int) -> None:
    """Give each gene the embedding of another one: genes can be told apart, and what was learnt of them is lost."""
    table, genes = _genes(loaded)
    order = np.random.default_rng(seed).permutation(genes)
    table[order] = table[np.roll(order, 1)]


def make_genes_alike(loaded: LoadedModel, seed: int) -> None:
    """Give all genes the mean of their embeddings."""
    table, genes = _genes(loaded)
    table[genes] = table[genes].mean(0)


def make_ranks_alike(loaded: LoadedModel, seed: int) -> None:
    """Give all positions the mean of their embeddings."""
    for table in _positions(loaded):
        table[:] = table.mean(0)


def _genes(loaded: LoadedModel) -> tuple[torch.Tensor, np.ndarray]:
    vocabulary = loaded.processor.tokenizer.gene_vocabulary
    ids = [vocabulary[name] for name in vocabulary if name not in vocabulary.special_tokens]
    return loaded.model.get_input_embeddings().weight.data, np.array(ids)


def _positions(loaded: LoadedModel) -> list[torch.Tensor]:
    return [one.data for name, one in loaded.model.named_parameters() if name.endswith("position_embeddings.weight")]


class Ablation(NamedTuple):
    """What is taken away.

    Attributes:
        cells: makes other cells of the cells.
        model: changes the weights of a model in place.
    """

    cells: "Callable[[AnnData, int], AnnData] | None" = None
    model: Callable[[LoadedModel, int], None] | None = None


ABLATIONS = {
    "whole": Ablation(),
    "values shuffled": Ablation(cells=with_shuffled_values),
    "genes exchanged": Ablation(model=exchange_genes),
    "genes alike": Ablation(model=make_genes_alike),
    "ranks alike": Ablation(model=make_ranks_alike),
}


def run(piece: Piece) -> dict[str, Any]:
    """Labels by linear methods and by probes on embeddings, whole and with something taken away."""
    cells = of_variable_genes(read_cells(piece, DATASET), piece.size.n_genes)
    (split,) = stratified_splits(labels_of(cells), seeds=[piece.seed])
    file = written(cells[split.train], piece, "train")
    shuffled = baselines(with_shuffled_values(cells, piece.seed), split)
    predicted = baselines(cells, split) | {f"{name}, values shuffled": one for name, one in shuffled.items()}
    untrained = pretrained(piece, piece.setting, [file], *UNTRAINED, name="untrained")
    for state, folder in (("untrained", untrained), ("pre-trained", pretrained(piece, piece.setting, [file]))):
        for name, ablation in ABLATIONS.items():
            if (found := _without(ablation, cells, folder, split, piece.seed)) is not None:
                predicted[f"{state}, {name}"] = found
    return tested(cells, split, predicted)


def _without(ablation: Ablation, cells: "AnnData", folder: Path, split: Split, seed: int) -> np.ndarray | None:
    """(n_test,) labels by a probe; None where the model lacks what would be taken away."""
    loaded = load_model(folder, "AutoModel")
    if ablation.model is make_ranks_alike and not _positions(loaded):
        return None
    if ablation.model is not None:
        ablation.model(loaded, seed)
    given = cells if ablation.cells is None else ablation.cells(cells, seed)
    return probed(embedding(given, loaded.model, loaded.processor), labels_of(cells), split)


EXPERIMENT = Experiment(
    name="ablation",
    title="Positions, values and the identity of genes taken away",
    question="What of its input does a small model's embedding live on: which genes are expressed, how much, in which "
    "order, or what was learnt about each gene?",
    datasets=(DATASET,),
    settings=("dense", "ranks", "performer"),
    run=run,
    report=partial(annotation_page, reference="PCA + LR"),
    methods=(
        "Settings: `dense` is a small scGPT (bins, no positions), `ranks` a small Geneformer (a position for each "
        "rank, no values), `performer` a small scBERT (bins; the embedding of a gene is its position). All are "
        "pre-trained by masking, on the four fifths of the cells that teach the probe.",
        "Embeddings are zero-shot (`untrained` = before the first step); a logistic regression on them learns the "
        "labels, anew after each ablation.",
        "`values shuffled`: the counts of a cell are exchanged among the genes that it expresses. `genes exchanged`: "
        "each gene has the embedding of another one. `genes alike`, `ranks alike`: all have the mean of theirs.",
    ),
)
