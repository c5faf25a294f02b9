"""How well features are predicted, with intervals over cells."""

from typing import Any

import numpy as np

from .predictors import METHODS, PCA, RIDGES

N_DRAWS = 200


def score_predictions(
    predictions: dict[str, np.ndarray], values: np.ndarray, folds: np.ndarray, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores of every method: over all features, and feature by feature.

    Correlations are within folds: between them, the mean of the cells that are learnt from falls where that of the
    held-out ones rises, so that predictions near the mean would correlate negatively. That of the mean is 0.
    Draws of cells are the same for all methods, so that differences are of pairs.

    Args:
        predictions: method -> (n_cells, n_features), of held-out cells.
        values: (n_cells, n_features).
        folds: (n_cells,) which fold held a cell out.
        seed: seed of the draws.

    Returns:
        Columns of a table, a row per method (`pearson` and `rmse`, means over features, and `gain`, the difference of
        `pearson` from that of `pca`; with `_low` and `_high`, 95 % intervals over cells); and for each method the same
        columns, a row per feature, without `gain`.
    """
    n_cells = len(values)
    drawn = np.random.default_rng(seed).multinomial(n_cells, np.full(n_cells, 1 / n_cells), size=N_DRAWS)
    # the first row is all cells as they are
    weights = np.vstack([np.ones(n_cells), drawn]) / n_cells
    found = {name: _scores(predictions[name], values, folds, weights) for name in METHODS}
    table: dict[str, Any] = {"method": np.array(METHODS, object)}
    gains = {name: {"gain": (found[name]["pearson"] - found[PCA]["pearson"]).mean(axis=1)} for name in METHODS}
    means = {name: {key: each.mean(axis=1) for key, each in found[name].items()} | gains[name] for name in METHODS}
    rows = [_with_intervals(means[name]) for name in METHODS]
    table |= {column: np.array([row[column] for row in rows]) for column in rows[0]}
    return table, {name: _with_intervals(found[name]) for name in METHODS}


def best_ridge(scores: dict[str, Any]) -> str:
    """The ridge regression with the highest correlation; of equal ones the first, which is the simplest."""
    correlation = dict(zip(scores["method"], scores["pearson"], strict=True))
    return max(RIDGES, key=correlation.__getitem__)


def _scores(predicted: np.ndarray, values: np.ndarray, folds: np.ndarray, weights: np.ndarray) -> dict:
    """(draws, n_features) correlations and errors under weights of cells."""
    errors = np.sqrt(weights @ (values - predicted) ** 2)
    values, predicted = _centred(values, folds), _centred(predicted, folds)
    of_values, of_predicted = weights @ values, weights @ predicted
    spread = (weights @ values**2 - of_values**2) * (weights @ predicted**2 - of_predicted**2)
    together = weights @ (values * predicted) - of_values * of_predicted
    root = np.sqrt(np.maximum(spread, 0))
    pearson = np.divide(together, root, out=np.zeros_like(together), where=root > 1e-12)
    return {"pearson": pearson, "rmse": errors}


def _centred(values: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """The values minus the mean of their fold."""
    centred = np.empty_like(values)
    for fold in np.unique(folds):
        centred[folds == fold] = values[folds == fold] - values[folds == fold].mean(axis=0)
    return centred


def _with_intervals(scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """The scores of all cells, and the 95 % intervals of the draws."""
    columns: dict[str, Any] = {}
    for name, each in scores.items():
        columns[name] = each[0]
        columns[f"{name}_low"], columns[f"{name}_high"] = np.quantile(each[1:], (0.025, 0.975), axis=0)
    return columns
