"""From cells and settings to predicted cells, with the table that says how far to trust them."""

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from ...errors import ConfigurationError, require
from ...evaluation.perturbations.cell_eval import EXTRA, cell_eval_scores, check_values
from ...evaluation.perturbations.cells import draw_controls
from ...evaluation.perturbations.features import GeneFeatures
from ...evaluation.perturbations.scores import FEWEST_CELLS, ShiftScores, ceiling, score_shifts, spread
from ...evaluation.perturbations.screen import SEPARATORS, Condition, Screen, check_separator
from ...files import check_apart, check_output_file
from ...logging import progress_bar, warn
from ...sources.in_memory import InMemorySource
from ...versions import package_versions
from ..files.h5ad import write_h5ad
from ..running.provenance import check_adata, record
from .methods import (
    MODEL,
    SET,
    SIMPLE,
    CellPredictor,
    choose_features,
    fit_simple,
    report_unknown_seen,
    simple_cells,
    told_by_features,
)
from .plan import PredictionPlan, make_plan
from .reading import read_screen

if TYPE_CHECKING:
    from anndata import AnnData

    from ...sources.cell_source import CellSource
    from ...tokenization.processing_cell import CellProcessor
    from ..files.pieces import Pieces
    from ..predict_perturbation import PredictPerturbationSettings

ALIKE = 0.05
"""Predictions whose spread is less, as a share of that of the seen perturbations, are all alike."""

NAME, PREDICTED, SOURCE = "predict_perturbation", "sclm_predicted", "sclm_control_cell"


def predict_cells(
    adata: "AnnData",
    model: Any,
    processor: "CellProcessor | None",
    settings: "PredictPerturbationSettings",
    pieces: "Pieces | None" = None,
    source: "CellSource | None" = None,
) -> "AnnData":
    """Predict perturbations; see [`predict_perturbation`], and for `pieces` `model_cells`.

    Args:
        source: where the values lie, if not in `adata`, which then has `obs` and `var` alone.
    """
    check_adata(adata)
    method = _method(model, settings)
    written = settings.files(written=True)
    check_apart(written, settings.files(written=False))
    for path in written:
        check_output_file(path)
    if settings.cell_eval is not None:
        require("cell_eval", extra=EXTRA)
    source = InMemorySource(adata, settings.layer, expects="any") if source is None else source
    screen, data_name = read_screen(adata, source, settings)
    plan = make_plan(screen, settings)
    if method in (SET, MODEL):
        _check_training(model, method, settings, pieces)
    fills = _fills(model, settings)
    features = choose_features(screen, plan, settings, method, fills=fills)
    check_separator(screen, [one.perturbation for one in (*plan.seen, *plan.predicted)], _known(screen, features))
    if method != MODEL:
        _check_known(screen, features, settings)
    _check_truth(screen, plan, settings)
    report_unknown_seen(screen, plan, features)
    plan = _with_features(screen, plan, features) if method == SET else plan
    means, left_out = fit_simple(screen, plan, features, plan.predicted, filled=method if fills else None)
    if method in (SET, MODEL):
        from .trained import model_cells

        cells = model_cells(screen, plan, features, settings, model, processor, method, source, pieces)
    else:
        cells = simple_cells(means[method], plan.predicted)
    result, own = _assemble(adata, screen, plan.predicted, cells, settings)
    check_values(result)
    entry = _record(screen, plan, method, means, own, left_out, settings, model) | {"data": data_name}
    if fills:
        entry["by_mean"] = "; ".join(_report_by_mean(screen, plan, features, method))
    truth = _truth(adata, screen, plan, settings)
    if settings.cell_eval is not None:
        baseline, _ = _assemble(adata, screen, plan.predicted, simple_cells(means["mean"], plan.predicted), settings)
        entry["cell_eval"] = cell_eval_scores(
            result,
            baseline,
            truth,
            key=settings.perturbation_key,
            control=settings.control,
            profile=settings.cell_eval,
            seed=settings.seed,
        )
    # last, as a run that was stopped would not replace them
    if settings.write_split is not None:
        plan.split.write(settings.write_split)
    if settings.truth is not None:
        write_h5ad(truth, settings.truth)
    record(result, NAME, entry)
    return result


def _method(model: Any, settings: "PredictPerturbationSettings") -> str:
    """The method that is meant, and whether a model goes with it."""
    method = settings.method or (SIMPLE[-1] if model is None else MODEL)
    if method == MODEL and model is None:
        raise ConfigurationError(
            "`method='model'` (`--method model`) needs a `model` (`--model`): a trained one, an encoder to start "
            "from, or the name of a family for a new one."
        )
    if method != MODEL and model is not None:
        raise ConfigurationError(
            f"`{method}` takes no `model` (`--model`): leave it out, or leave out `method` (`--method`). Embeddings "
            "of genes by a model go into `features` (`--features`)."
        )
    return method


def _fills(model: Any, settings: "PredictPerturbationSettings") -> bool:
    """Whether perturbations without features get the mean: nobody chose a method that needs them, or features."""
    return model is None and settings.method is None and settings.features is None


def _report_by_mean(screen: Screen, plan: PredictionPlan, features: GeneFeatures, method: str) -> list[str]:
    """Warn of perturbations that are predicted by the mean of the seen ones, and name them."""
    told = told_by_features(screen, plan, features, plan.predicted)
    names = [one.perturbation for one, known in zip(plan.predicted, told, strict=True) if not known]
    names = list(dict.fromkeys(names))
    if names:
        warn(
            f"{len(names):,} of {len({one.perturbation for one in plan.predicted}):,} perturbations are predicted by "
            f"the mean of the seen ones, because `{method}` needs features of their genes and {features.source} have "
            f"none, or too few seen ones have any: {', '.join(names[:5])}. Give `features` (`--features`; a table of "
            "genes, or a model) to tell them apart."
        )
    return names


def _check_training(model: Any, method: str, settings: "PredictPerturbationSettings", pieces: "Pieces | None") -> None:
    from .trained import is_trained, training_settings

    if not is_trained(model, method, settings.revision):
        training_settings(settings, pieces)


def _known(screen: Screen, features: GeneFeatures | None) -> set[str]:
    """Genes by name: those measured, those with features, and those perturbed one by one."""
    names = set(screen.perturbations.tolist())
    alone = {name for name in names if not any(separator in name for separator in SEPARATORS)}
    return {*screen.genes, *(features.names if features is not None else ()), *alone}


def _check_known(screen: Screen, features: GeneFeatures, settings: "PredictPerturbationSettings") -> None:
    """Refuse names of which nothing is known, so that their predictions would say nothing of them."""
    perturbed = {part for name in set(screen.perturbations.tolist()) for part in screen.parts(name)}
    known = _known(screen, features) | perturbed
    unknown = list(dict.fromkeys(part for name in settings.names for part in screen.parts(name) if part not in known))
    if unknown:
        close = difflib.get_close_matches(unknown[0], sorted(known - {screen.control}), n=3)
        hint = f" Closest to {unknown[0]!r}: {', '.join(close)}." if close else ""
        raise ConfigurationError(
            f"`perturbations` (`--perturbations`): {', '.join(map(repr, unknown[:5]))} "
            f"{'is' if len(unknown) == 1 else 'are'} neither among the genes of the data or of `features` "
            f"(`--features`), nor among the perturbations in `obs[{settings.perturbation_key!r}]`, such as "
            f"{', '.join(sorted(perturbed)[:3])}.{hint} Name genes as the data do, or give `features` that have them."
        )


def _with_features(screen: Screen, plan: PredictionPlan, features: GeneFeatures) -> PredictionPlan:
    """The plan without conditions to learn from whose genes have no features."""

    def able(conditions: Sequence[Condition]) -> list[Condition]:
        return [one for one in conditions if features.has(screen.parts(one.perturbation))]

    seen = able(plan.seen)
    if len(seen) < 2:
        raise ConfigurationError(
            f"`set` learns from perturbations whose genes have features, and {len(seen)} of {len(plan.seen)} have: "
            "give others with `features` (`--features`)."
        )
    return PredictionPlan(seen, able(plan.choosing), plan.predicted, plan.split)


def _check_truth(screen: Screen, plan: PredictionPlan, settings: "PredictPerturbationSettings") -> None:
    """Refuse to compare predictions with cells that are not there."""
    if settings.truth is None and settings.cell_eval is None:
        return
    if absent := sorted({one.perturbation for one in plan.predicted} - {x.perturbation for x in plan.scored(screen)}):
        raise ConfigurationError(
            f"There are no cells of {', '.join(absent[:5])} to compare predictions with: leave out `truth` "
            "(`--truth`) and `cell_eval` (`--cell-eval`), or predict perturbations that the data have."
        )


def _n_cells(screen: Screen, settings: "PredictPerturbationSettings") -> int:
    """Cells to predict of each perturbation: as many as a perturbation has in the data, typically."""
    return settings.n_cells or int(np.median([len(screen.rows(condition)) for condition in screen.conditions]))


def _assemble(
    adata: "AnnData",
    screen: Screen,
    conditions: Sequence[Condition],
    cells: CellPredictor,
    settings: "PredictPerturbationSettings",
) -> tuple["AnnData", np.ndarray]:
    """Real control cells and predicted cells, and (conditions, genes) means of the predicted ones."""
    anndata, pandas = require("anndata", extra="anndata"), require("pandas", extra="anndata")
    contexts = list(dict.fromkeys(context for context, _ in conditions))
    controls = np.sort(np.concatenate([screen.controls(context) for context in contexts]))
    number = _n_cells(screen, settings)
    sources = {context: draw_controls(screen.controls(context), number, settings.seed) for context in contexts}
    blocks, frames, means = [screen.values[controls]], [_obs(adata, screen, controls, settings)], []
    for condition in progress_bar(conditions, desc="predicting", unit="perturbation"):
        rows = sources[condition.context]
        predicted = cells(condition, screen.dense(rows))
        means.append(predicted.mean(axis=0, dtype=np.float64))
        blocks.append(scipy.sparse.csr_matrix(predicted))
        frame = _obs(adata, screen, rows, settings)
        frame[settings.perturbation_key], frame[PREDICTED] = condition.perturbation, True
        frame[SOURCE] = frame.index.to_numpy()
        frame.index = [f"{condition.perturbation} of {name}" for name in frame.index]
        frames.append(frame)
    obs = pandas.concat(frames)
    obs[settings.perturbation_key] = obs[settings.perturbation_key].astype("category")
    values = scipy.sparse.vstack(blocks, format="csr")
    return anndata.AnnData(values, obs=obs, var=adata.var.copy()), np.stack(means)


def _obs(adata: "AnnData", screen: Screen, rows: np.ndarray, settings: "PredictPerturbationSettings") -> Any:
    pandas = require("pandas", extra="anndata")
    obs = pandas.DataFrame({settings.perturbation_key: screen.perturbations[rows]}, index=adata.obs_names[rows])
    if settings.cell_type_key is not None:
        obs[settings.cell_type_key] = screen.contexts[rows]
    obs[PREDICTED], obs[SOURCE] = False, ""
    return obs


def _truth(
    adata: "AnnData", screen: Screen, plan: PredictionPlan, settings: "PredictPerturbationSettings"
) -> "AnnData | None":
    """The real cells of the predicted perturbations with the same controls, on the same scale."""
    if settings.truth is None and settings.cell_eval is None:
        return None
    anndata = require("anndata", extra="anndata")
    contexts = {context for context, _ in plan.predicted}
    rows = [screen.controls(context) for context in contexts] + [screen.rows(one) for one in plan.scored(screen)]
    rows = np.sort(np.concatenate(rows))
    obs = _obs(adata, screen, rows, settings).drop(columns=[PREDICTED, SOURCE])
    return anndata.AnnData(screen.values[rows], obs=obs, var=adata.var.copy())


def _record(
    screen: Screen,
    plan: PredictionPlan,
    method: str,
    means: dict[str, np.ndarray],
    own: np.ndarray,
    left_out: list[str],
    settings: "PredictPerturbationSettings",
    model: Any,
) -> dict[str, Any]:
    """What `uns["sclm_hf"]` keeps."""
    base = np.stack([screen.control_mean(context) for context, _ in plan.predicted])
    _, seen = plan.shifts(screen)
    how_far = spread(own - base, seen)
    if len(plan.predicted) > 1 and not how_far >= ALIKE:
        warn(
            f"The predictions for {len(plan.predicted)} perturbations are all alike: their spread is {how_far:.3f} of "
            f"that of the seen ones. `{method}` has not learnt what tells one perturbation from another."
        )
    named = "in memory" if model is not None and not isinstance(model, str) else str(model or "")
    entry = {
        "method": method,
        "model": str(settings.trained) if method == SET else named,
        "revision": settings.revision or "",
        "settings": {name: "" if value is None else str(value) for name, value in settings.to_record().items()},
        "versions": package_versions("torch", "transformers", "scikit-learn", "numpy", "anndata"),
        "n_seen": len(seen),
        "n_predicted": len(plan.predicted),
        "spread": how_far,
        "left_out": "; ".join(left_out),
    }
    scored = [row for row, one in enumerate(plan.predicted) if screen.rows(one).size]
    if not scored:
        return entry
    conditions = [plan.predicted[row] for row in scored]
    real = np.stack([screen.shift(condition) for condition in conditions])
    predictions = {**means, method: own}
    if method in means:
        # the table keeps its order: simple predictors first
        predictions = means
    scores = {name: score_shifts(one[scored] - base[scored], real) for name, one in predictions.items()}
    columns: dict[str, list] = {"method": list(scores)}
    for field in ShiftScores._fields:
        columns[field] = [getattr(score, field) for score in scores.values()]
    divisible = [one for one in conditions if len(screen.rows(one)) >= FEWEST_CELLS]
    if divisible:
        best = ceiling(screen, divisible, settings.seed)
        columns["method"].append("ceiling")
        for field in ShiftScores._fields:
            columns[field].append(getattr(best, field))
    arrays = {name: np.array(values, object if name == "method" else np.float64) for name, values in columns.items()}
    return {**entry, "n_scored": len(scored), "scores": arrays}
