"""Batch correction on mixed data sets."""

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.integration.harmony import harmony
from ..evaluation.integration.representations import principal_components
from ..evaluation.integration.scores import integration_scores
from ..tasks.integrate import integrate
from .cells import BATCH, labels_of, of_variable_genes, read_cells, written
from .experiment import Experiment, Piece
from .models import UNTRAINED, embedding, pretrained
from .tables import scores_page

if TYPE_CHECKING:
    from anndata import AnnData

DATASETS = ("pbmc_3tech_symphony_1200", "celllines_mixology_celseq2_dropseq", "pancreas_3batch_cepo_528")


def run(piece: Piece) -> dict[str, Any]:
    """Scores of embeddings of the cells of several batches."""
    cells = of_variable_genes(read_cells(piece, piece.setting), piece.size.n_genes)
    file = written(cells, piece, "cells")
    untrained = pretrained(piece, "dense", [file], *UNTRAINED, name="untrained")
    model = pretrained(piece, "dense", [file])
    tuned = integrate(
        cells, model, batch_key=BATCH, mode="fine_tune", n_steps=piece.size.n_steps, seed=piece.seed, key_added="X"
    )
    models = {
        "scGPT untrained": embedding(cells, untrained),
        "scGPT pre-trained": embedding(cells, model),
        "scGPT fine-tuned": tuned.obsm["X"],
    }
    return {"scores": scores_of(cells, models, piece.seed)}


def scores_of(cells: "AnnData", models: dict[str, np.ndarray], seed: int) -> dict[str, dict[str, float]]:
    """Scores of principal components and of embeddings, each as it is and corrected by Harmony."""
    batches, labels = cells.obs[BATCH].to_numpy(str), labels_of(cells)
    components = principal_components(cells.X, seed=seed)
    embeddings = {}
    for name, one in {"PCA": components, **models}.items():
        embeddings[name] = one
        embeddings[f"{name} + Harmony"] = harmony(one, batches, seed=seed)
    return {name: integration_scores(one, batches, labels, components) for name, one in embeddings.items()}


EXPERIMENT = Experiment(
    name="integration",
    title="Batch correction on mixed data sets",
    question="Does a model mix the batches of a study and keep its cell types apart better than principal components "
    "and Harmony?",
    datasets=DATASETS,
    settings=DATASETS,
    run=run,
    report=partial(scores_page, reference="PCA"),
    methods=(
        "scIB's scores by scib-metrics, higher is better: `total` is 0.6 of `biology` and 0.4 of `mixing`, of which "
        "the columns after them are parts. Labels score and teach nothing.",
        "Each embedding as it is (zero-shot) and corrected by Harmony; `untrained` = before the first step; "
        "`fine-tuned` by scGPT's losses for integration with a LoRA (`sclm_hf.integrate`).",
        "Models are pre-trained on the cells that they embed, without batches or labels.",
    ),
    needs=("scib_metrics", "harmonypy"),
)
