"""Small models of an experiment: trained, run, and asked for labels."""

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.baselines.baseline import Baseline
from ..evaluation.baselines.linear import PCALogisticRegression, ZScoredLogisticRegression
from ..evaluation.splits import Split
from ..tasks.annotate import annotate
from ..tasks.embed import embed
from ..training.partners import folds
from ..training.probe import choose_strength, fit_probe
from ..training.verbs import finetune, pretrain
from .cells import LABEL, labels_of, written
from .experiment import Piece

if TYPE_CHECKING:
    from anndata import AnnData

RECIPES = Path(__file__).parent / "recipes"
BASELINES = {"PCA + LR": PCALogisticRegression, "z-scored LR": ZScoredLogisticRegression}
LABELLED_STEPS = 5
"""Steps of fine-tuning for each one of pre-training: with fewer, most classes get nearly the same probability."""

UNTRAINED = ("--max_steps", "1", "--learning_rate", "1e-12")
"""The same model before its first step."""


def pretrained(piece: Piece, recipe: str, files: list[Path], *flags: str, name: str = "") -> Path:
    """The folder of a new model.

    Args:
        piece: seed, number of genes and steps.
        recipe: name of a file in `recipes`.
        files: cells to train on.
        *flags: what differs from these.
        name: of the folder; by default that of the recipe.
    """
    folder = piece.scratch / (name or recipe)
    trained = ("--max_steps", str(piece.size.n_steps), "--seed", str(piece.seed), "--output_dir", str(folder))
    with contextlib.redirect_stdout(io.StringIO()):
        pretrain(["--config", str(RECIPES / f"{recipe}.yaml"), "--train_files", *map(str, files), *trained, *flags])
    return folder


def embedding(cells: "AnnData", model: Any, processor: Any = None) -> np.ndarray:
    """(n_cells, size) embeddings of a model as it is."""
    return embed(cells, model, processor, key_added="X").obsm["X"]


def probed(features: np.ndarray, labels: np.ndarray, split: Split) -> np.ndarray:
    """(n_test,) labels by logistic regression on features, its penalty chosen on the cells to train on."""
    names, numbers = np.unique(labels, return_inverse=True)
    features, train = features.astype(float), numbers[split.train]
    strength, *_ = choose_strength(features[split.train], train, len(names), folds(train))
    fitted = fit_probe(features[split.train], train, len(names), strength)
    return names[fitted.log_probabilities(features[split.test]).argmax(axis=1)]


def baselines(cells: "AnnData", split: Split, **methods: type[Baseline]) -> dict[str, np.ndarray]:
    """Method -> (n_test,) labels by methods that need no model."""
    labels = labels_of(cells)
    return {
        name: method().fit(cells.X[split.train], labels[split.train]).predict(cells.X[split.test])
        for name, method in (methods or BASELINES).items()
    }


def fine_tuned(piece: Piece, model: Path, cells: "AnnData", split: Split) -> np.ndarray:
    """(n_test,) labels by a model of which all weights learn the labels of the cells to train on."""
    folder = fine_tuned_folder(piece, model, cells, split)
    return annotate(cells[split.test].copy(), folder).obs["sclm_prediction"].to_numpy(str)


def fine_tuned_folder(piece: Piece, model: Path, cells: "AnnData", split: Split) -> Path:
    """The folder of such a model."""
    folder, file = piece.scratch / f"{model.name}-fine-tuned", written(cells[split.train], piece, "labelled")
    with contextlib.redirect_stdout(io.StringIO()):
        finetune(
            [
                *("--config", str(RECIPES / "finetune.yaml"), "--train_files", str(file), "--label_column", LABEL),
                *("--model_name_or_path", str(model), "--max_steps", str(LABELLED_STEPS * piece.size.n_steps)),
                *("--seed", str(piece.seed), "--output_dir", str(folder)),
            ]
        )
    return folder


def tested(cells: "AnnData", split: Split, predicted: dict[str, np.ndarray]) -> dict[str, Any]:
    """What methods said of the test cells of a split, as JSON holds it."""
    return {
        "cells": split.test.tolist(),
        "true": labels_of(cells)[split.test].tolist(),
        "predicted": {name: np.asarray(one, str).tolist() for name, one in predicted.items()},
    }
