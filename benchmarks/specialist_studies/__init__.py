"""One file per task-specific model: what it is worth on real data, simple methods first.

Each has `STUDIES`: name of the study -> a function of the seed that returns method -> score -> value, the simple
methods first and the model last; a score may have an interval, under its name with `_low` and `_high`. All train with
the defaults of `sclm_hf.fit`, unless the name or the file says otherwise.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np

import sclm_hf
from sclm_hf.evaluation.baselines.linear import PCALogisticRegression, ZScoredLogisticRegression
from sclm_hf.evaluation.networks import interval

ANNOTATIONS = {
    "annotation, pbmc_3tech_symphony, 10x 5' held out": ("pbmc_3tech_symphony_1200", "platform", "10x 5'"),
    "annotation, pancreas, batch 4 held out": ("pancreas_3batch_cepo_528", "batch", "batch 4"),
    "annotation, covid_balf, donor C146 held out": ("covid_balf_liao", "batch", "C146"),
}
"""Study of naming cells -> data set, column of `obs` and the batch that is held out."""

DATA = Path(os.environ.get("SCLM_DATA", "../shared/data")) / "h5ad"

N_DRAWS = 500
"""Draws of a bootstrap."""


def read(name: str) -> anndata.AnnData:
    """A data set of `SCLM_DATA`."""
    return anndata.read_h5ad(DATA / f"{name}.h5ad")


def fitted(name: str, cells: Any, seed: int, **settings: Any) -> str:
    """The folder of a model trained on cells, as long as the process lives."""
    folder = Path(tempfile.mkdtemp()) / name
    sclm_hf.fit(name, cells, folder, seed=seed, **settings)
    return str(folder)


def annotation(
    name: str, dataset: str, batch: str, held_out: str, seed: int, label_key: str = "cell_type", **settings: Any
) -> dict[str, dict[str, float]]:
    """Accuracy and macro-F1 on the cells of a batch, methods trained on the others.

    Args:
        name: the model.
        dataset: the data set.
        batch: column of `obs`.
        held_out: the batch to name.
        seed: of the model.
        label_key: column with the labels.
        **settings: of `fit`.
    """
    cells = read(dataset)
    is_test = (cells.obs[batch].astype(str) == held_out).to_numpy()
    train, test = cells[~is_test].copy(), cells[is_test].copy()
    test = test[test.obs[label_key].isin(train.obs[label_key].unique())].copy()
    labels = train.obs[label_key].astype(str).to_numpy()
    predicted = {}
    for title, baseline in {
        "z-scored logistic regression": ZScoredLogisticRegression(),
        "PCA + logistic regression": PCALogisticRegression(),
    }.items():
        predicted[title] = baseline.fit(train.X, labels).predict(test.X)
    folder = fitted(name, train, seed, label_key=label_key, **settings)
    predicted[name] = sclm_hf.annotate(test, folder).obs["sclm_prediction"].astype(str).to_numpy()
    truth = test.obs[label_key].astype(str).to_numpy()
    return {method: scores_of(truth, found) for method, found in predicted.items()}


def scores_of(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy and macro-F1 over the labels that occur, with intervals."""
    from sklearn.metrics import accuracy_score, f1_score

    def score(cells: np.ndarray) -> dict[str, float]:
        true, found = truth[cells], predicted[cells]
        return {
            "accuracy": float(accuracy_score(true, found)),
            "macro_f1": float(f1_score(true, found, average="macro", labels=np.unique(true))),
        }

    return with_intervals(score, len(truth))


def with_intervals(score: Callable[[np.ndarray], dict[str, float]], n_cells: int) -> dict[str, float]:
    """The scores of all cells, and with `_low` and `_high` the ends of their 95 % bootstrap intervals over cells.

    Args:
        score: numbers of cells -> name of a score -> its value.
        n_cells: how many there are.
    """
    rng = np.random.default_rng(0)
    found = score(np.arange(n_cells))
    draws = [score(rng.integers(n_cells, size=n_cells)) for _ in range(N_DRAWS)]
    for name in list(found):
        found[f"{name}_low"], found[f"{name}_high"] = map(float, interval(np.array([draw[name] for draw in draws])))
    return found
