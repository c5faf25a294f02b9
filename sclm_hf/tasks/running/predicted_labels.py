"""Labels that cells got before, scored against those that they have."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import CheckpointError, HubError, require
from ...logging import warn
from ...opening.names import resolve_name
from ...sources.in_memory import InMemorySource
from ...versions import package_versions
from .adding import check_columns
from .provenance import check_adata, check_target, record, take_target
from .true_labels import TrueLabels

if TYPE_CHECKING:
    from anndata import AnnData

    from ..evaluate import EvaluateSettings


def score_predictions(
    adata: "AnnData", settings: "EvaluateSettings", seen_column: str, unassigned: str, *, copy: bool
) -> "AnnData":
    """Add the scores of a column of predicted labels to cells; see [`sclm_hf.evaluate`].

    Args:
        adata: the cells.
        settings: names the predictions and the true labels.
        seen_column: column of `obs` that will say which cells a model was trained on, where that is known.
        unassigned: what a cell is called that got no label.
        copy: add to a copy.

    Raises:
        ConfigurationError: no true label is among the predictions, or the model that made these was trained on some
            of the cells.
        CheckpointError: the training manifest of that model is damaged.
        CorpusError: there is no such column, or no cell is left to score.
    """
    check_adata(adata)
    check_target(adata, copy=copy)
    check_columns(adata, (seen_column,))
    source, key = _source(adata, settings.layer), settings.prediction
    column = source.column(key)
    predicted = np.array([*column.categories, unassigned], dtype=object)[column.codes]
    model, revision, unchecked = _made_by(adata.uns.get("sclm_hf", {}).get(key))
    if not adata.n_vars:
        unchecked = "the cells are here without their counts"
    true = TrueLabels(
        source,
        source.cell_ids(),
        settings,
        sorted(set(predicted) - {unassigned}),
        "in memory" if unchecked else model,
        revision,
        unassigned,
        predicted_in=f"`obs[{key!r}]`",
    )
    if not (unchecked or true.has_manifest):
        unchecked = f"`{model}`, which made them, has no training manifest{' of its own' if true.seen.any() else ''}"
    if unchecked:
        warn(f"Whether cells with the labels `obs[{key!r}]` were trained on could not be checked: {unchecked}.")
    facts = true.facts(predicted)
    result = take_target(adata, copy=copy)
    if not unchecked or true.seen.any():
        result.obs[seen_column] = true.seen
    about = {
        "model": model,
        "revision": revision,
        "settings": {name: "" if value is None else value for name, value in settings.to_record().items()},
        "versions": package_versions("scikit-learn", "numpy", "anndata"),
    }
    record(result, settings.key(""), {**about, **facts, "unchecked": unchecked})
    return result


def _source(adata: "AnnData", layer: str | None) -> InMemorySource:
    """The cells; what `annotate` writes for a corpus has labels alone, without data."""
    if adata.n_vars:
        return InMemorySource(adata, layer)
    anndata = require("anndata", extra="anndata")
    return InMemorySource(anndata.AnnData(np.ones((adata.n_obs, 1), np.float32), obs=adata.obs))


def _made_by(made: Any) -> tuple[str, str, str]:
    """The model that a record names, its commit on the Hub, and why it cannot be asked; empty where it can."""
    if not isinstance(made, Mapping) or not made.get("model"):
        return "", "", "`uns['sclm_hf']` does not say which checkpoint made them"
    model, revision = str(made["model"]), str(made.get("revision", ""))
    if Path(model).is_dir():
        return model, revision, ""
    gone = f"`{model}`, which made them, is not here"
    # what has no commit was a folder, or in memory: the Hub is not asked for what happens to be called so there
    if not revision:
        return model, revision, gone
    try:
        resolve_name(model, revision)
    except (CheckpointError, HubError):
        return model, revision, gone
    return model, revision, ""
