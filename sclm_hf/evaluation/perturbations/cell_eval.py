"""Scores by cell-eval, the metrics of the Virtual Cell Challenge, beside those of a baseline and a ceiling."""

import logging
import tempfile
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ExpressionError, require

if TYPE_CHECKING:
    from anndata import AnnData

PROFILES = ("vcc", "full")
EXTRA = "cell-eval"
LARGEST = 15.0
"""cell-eval takes log-normalised values below it."""


def check_values(adata: "AnnData") -> None:
    """Refuse what cell-eval would refuse, or take for something else.

    Raises:
        ExpressionError: a value is not finite, negative, or not below 15.
    """
    values = adata.X.data
    if not np.isfinite(values).all() or (values.size and (values.min() < 0 or values.max() >= LARGEST)):
        raise ExpressionError(
            f"Predicted and real expression must be log-normalised, from 0 to below {LARGEST:g}; it goes from "
            f"{values.min():.3g} to {values.max():.3g}."
        )


def cell_eval_scores(
    predicted: "AnnData", baseline: "AnnData", real: "AnnData", *, key: str, control: str, profile: str, seed: int
) -> dict[str, np.ndarray]:
    """Means over the perturbations of all metrics of a profile; `full` holds those of `vcc`.

    Args:
        predicted: predicted cells and real controls.
        baseline: the same of a baseline.
        real: real cells of the same perturbations, and the same controls.
        key: column of `obs` with the perturbations.
        control: the value that means none.
        profile: one of `PROFILES`.
        seed: of the halves of the ceiling.

    Returns:
        `metric`, and for each `baseline`, `predicted` and `ceiling`: what one half of the real cells gets against the
        other, corrected for depth; NaN where there is no such correction.

    Raises:
        MissingDependencyError: cell-eval is not installed.
    """
    cell_eval = require("cell_eval", extra=EXTRA)
    level = logging.root.manager.disable
    # it reports every step
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            columns = {}
            for name, cells in (("baseline", baseline), ("predicted", predicted)):
                evaluator = cell_eval.MetricsEvaluator(
                    adata_pred=_bare(cells, key),
                    adata_real=_bare(real, key),
                    control_pert=control,
                    pert_col=key,
                    num_threads=1,
                    outdir=folder,
                )
                scores, _ = evaluator.compute(profile=profile, write_csv=False)
                columns[name] = scores.drop("perturbation").mean().to_dicts()[0]
            _, best = evaluator.compute_ceiling(profile=profile, write_csv=False, seed=seed)
            columns["ceiling"] = best.to_dicts()[0]
    finally:
        logging.disable(level)
    metrics = sorted({name for column in columns.values() for name in column})
    return {"metric": np.array(metrics, object)} | {
        name: np.array([np.nan if column.get(metric) is None else column[metric] for metric in metrics], np.float64)
        for name, column in columns.items()
    }


def _bare(adata: "AnnData", key: str) -> "AnnData":
    """A copy with what is read of it; cell-eval changes what it is given."""
    anndata = require("anndata", extra="anndata")
    obs = adata.obs[[key]].astype(str).astype("category")
    return anndata.AnnData(adata.X.copy(), obs=obs, var=adata.var[[]].copy())
