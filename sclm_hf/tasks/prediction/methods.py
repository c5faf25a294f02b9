"""Features of genes, and the simple predictors."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import GeneCoverageError
from ...evaluation.perturbations.baselines import PREDICTORS, fit_predictor
from ...evaluation.perturbations.cells import shift_cells
from ...evaluation.perturbations.features import GeneFeatures, expression_loadings, read_features
from ...evaluation.perturbations.screen import Condition, Screen
from ...logging import warn
from .plan import PredictionPlan

if TYPE_CHECKING:
    from ..predict_perturbation import PredictPerturbationSettings

SIMPLE = tuple(name for name in PREDICTORS if name != "no change")
SET, MODEL = "set", "model"

CellPredictor = Callable[[Condition, np.ndarray], np.ndarray]
"""A condition and (cells, genes) control cells -> (cells, genes) predicted ones."""


def choose_features(
    screen: Screen, plan: PredictionPlan, settings: "PredictPerturbationSettings", method: str, *, fills: bool
) -> GeneFeatures:
    """The features of genes, checked against what the method needs.

    Args:
        screen: the cells.
        plan: what becomes of each condition.
        settings: the settings.
        method: the method.
        fills: whether the method may do without features of some genes.

    Raises:
        GeneCoverageError: the method needs features of a gene that has none.
        ConfigurationError: features cannot be read.
    """
    if settings.features is None:
        kept = [*plan.seen, *((context, screen.control) for context in sorted({one.context for one in plan.seen}))]
        rows = np.unique(np.concatenate([screen.rows(Condition(*condition)) for condition in kept]))
        features = expression_loadings(screen, rows, settings.seed)
    elif _is_table(settings.features):
        features = read_features(settings.features)
    else:
        from ..genes.gene_embeddings import gene_embeddings

        table = gene_embeddings(settings.features, device=settings.device, revision=settings.revision)
        features = GeneFeatures(tuple(table.index), table.to_numpy(np.float64), str(settings.features))
    needed = [screen.parts(condition.perturbation) for condition in plan.predicted]
    needs = method == SET or (method in PREDICTORS and PREDICTORS[method].needs_features)
    if needs and not fills and (lacking := features.lacking(needed)):
        raise GeneCoverageError(
            f"`{method}` needs features of the genes to predict, and {features.source} "
            f"{'have' if settings.features is None else 'has'} none of {', '.join(lacking[:5])}: give others with "
            "`features` (`--features`; a table of genes, or a model), or take `method='mean'` (`--method mean`)."
        )
    return features.scaled()


def _is_table(features: Any) -> bool:
    names = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
    return (hasattr(features, "index") and hasattr(features, "columns")) or str(features).endswith(names)


def told_by_features(
    screen: Screen, plan: PredictionPlan, features: GeneFeatures, conditions: Sequence[Condition]
) -> np.ndarray:
    """(conditions,) bool: whether features tell a perturbation from others, two of which must have been seen."""
    seen, _ = plan.shifts(screen)
    learns = sum(map(features.has, seen)) > 1
    return np.array([learns and features.has(screen.parts(condition.perturbation)) for condition in conditions])


def fit_simple(
    screen: Screen,
    plan: PredictionPlan,
    features: GeneFeatures,
    conditions: Sequence[Condition],
    filled: str | None = None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """What all simple predictors say of conditions.

    Args:
        screen: the cells.
        plan: what is learnt from.
        features: features of genes.
        conditions: what to predict.
        filled: the predictor that takes the mean of the seen perturbations where features tell nothing.

    Returns:
        name -> (conditions, genes) mean expression; and names of those that lack features of seen or predicted genes.
    """
    seen, shifts = plan.shifts(screen)
    wanted = [screen.parts(condition.perturbation) for condition in conditions]
    controls = {context: screen.control_mean(context) for context, _ in conditions}
    base = np.stack([controls[context] for context, _ in conditions])
    told, everything = told_by_features(screen, plan, features, conditions), np.full(len(wanted), True)
    means, left_out = {}, []
    for name, predictor in PREDICTORS.items():
        able = told if predictor.needs_features else everything
        if not able.all() and name != filled:
            left_out.append(name)
            continue
        predicted = fit_predictor("mean", seen, shifts).predict(wanted)
        if able.any():
            fitted = fit_predictor(name, seen, shifts, features)
            predicted[able] = fitted.predict([parts for parts, one in zip(wanted, able, strict=True) if one])
        means[name] = np.maximum(base + predicted, 0)
    return means, left_out


def report_unknown_seen(screen: Screen, plan: PredictionPlan, features: GeneFeatures) -> None:
    """Warn of seen perturbations that a method with features cannot learn from."""
    seen, _ = plan.shifts(screen)
    if lacking := features.lacking(seen):
        warn(
            f"{len([parts for parts in seen if not features.has(parts)]):,} of the {len(seen):,} perturbations to "
            f"learn from are left out where features are needed: there are none of {', '.join(lacking[:5])}."
        )


def simple_cells(means: np.ndarray, conditions: Sequence[Condition]) -> CellPredictor:
    """Control cells, changed so that their mean is the predicted one."""
    row_of = {condition: row for row, condition in enumerate(conditions)}
    return lambda condition, controls: shift_cells(controls, means[row_of[condition]])
