"""Gene networks without a language model: correlation, and boosted trees."""

from typing import Any

import numpy as np

from ...errors import require


def correlations(expression: np.ndarray, regulators: np.ndarray, targets: np.ndarray, *, ranks: bool) -> np.ndarray:
    """Correlations of regulators and targets over cells.

    Args:
        expression: (cells, genes) log-normalised expression.
        regulators: (regulators,) their columns.
        targets: (targets,) their columns.
        ranks: Spearman's instead of Pearson's.

    Returns:
        (regulators, targets) float32 from -1 to 1; 0 for genes that do not vary.
    """
    if ranks:
        from scipy.stats import rankdata

        expression = rankdata(expression, axis=0)
    centred = expression - expression.mean(axis=0, dtype=np.float64)
    lengths = np.sqrt((centred**2).sum(axis=0))
    unit = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 1e-12)
    return (unit[:, regulators].T @ unit[:, targets]).astype(np.float32)


def boosted_trees(
    expression: np.ndarray,
    regulators: np.ndarray,
    targets: np.ndarray,
    *,
    n_trees: int = 100,
    seed: int = 0,
    bar: Any = None,
) -> np.ndarray:
    """How much each regulator helps to predict each target: stochastic gradient boosting, target by target.

    After Moerman et al. (GRNBoost2), Bioinformatics 35, 2159-2161 (2019), doi:10.1093/bioinformatics/bty916, with
    scikit-learn's trees: depth 3, a tenth of the regulators at each split, 90 % of the cells for each tree. What is
    bounded, and different, is their number: `n_trees` at a learning rate of 0.1 instead of up to 5,000 at 0.01.

    Args:
        expression, regulators, targets: as for [`correlations`].
        n_trees: trees for each target.
        seed: seed of the trees.
        bar: progress, in targets; None = none is shown.

    Returns:
        (regulators, targets) float32 importances, which add up to 1 for each target; 0 for a gene and itself.
    """
    ensemble = require("sklearn.ensemble", extra="evaluation")
    importances = np.zeros((len(regulators), len(targets)), np.float32)
    for place, target in enumerate(targets):
        others = np.flatnonzero(regulators != target)
        model = ensemble.GradientBoostingRegressor(
            n_estimators=n_trees, learning_rate=0.1, max_depth=3, max_features=0.1, subsample=0.9, random_state=seed
        )
        model.fit(expression[:, regulators[others]], expression[:, target])
        importances[others, place] = model.feature_importances_
        if bar is not None:
            bar.update()
    return importances
