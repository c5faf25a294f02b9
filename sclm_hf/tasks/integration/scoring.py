"""Embeddings that cells already have, scored beside principal components and Harmony."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse

from ...errors import ConfigurationError, MissingDependencyError
from ...evaluation.integration.harmony import check_harmony, harmony
from ...evaluation.integration.representations import principal_components
from ...evaluation.integration.scores import check_scores, integration_scores
from ...logging import counted, progress_bar, warn
from ...sources.in_memory import InMemorySource
from ...sources.survey import row_blocks
from ...versions import package_versions
from ..clustering.sweep import check_embedding
from ..running.provenance import check_adata, check_target, record, take_target
from ..running.seen import seen_by
from .batches import read_batches, read_labels

if TYPE_CHECKING:
    from anndata import AnnData

    from ..evaluate import EvaluateSettings

PCA, PCA_HARMONY = "PCA", "PCA + Harmony"
_PACKAGES = ("scib-metrics", "harmonypy", "scikit-learn", "igraph", "numpy", "anndata")


def score_embeddings(adata: "AnnData", settings: "EvaluateSettings", seen_column: str, *, copy: bool) -> "AnnData":
    """Add the scores of embeddings to cells; see [`sclm_hf.evaluate`].

    Args:
        adata: the cells.
        settings: names embeddings, batches and labels.
        seen_column: column of `obs` that marks cells whose labels a model was trained on.
        copy: add to a copy.

    Raises:
        ConfigurationError: there is no such embedding, one batch only, one label only or too few cells; or a model
            was trained on some of the cells.
        ExpressionError: an embedding is the same for all cells, or there are no counts for principal components.
        MissingDependencyError: scib-metrics is not installed.
    """
    check_adata(adata)
    check_target(adata, copy=copy)
    embeddings = {name: _embedding(adata, name) for name in settings.embeddings}
    source = InMemorySource(adata, settings.layer)
    batches, labels = read_batches(source, settings.batch_key), read_labels(source, settings.label_key)
    seen, has_manifest = _seen(adata, source, settings, seen_column)
    scored = labels.numbers >= 0
    if settings.seen == "leave_out":
        scored &= ~seen
    check_scores(batches.numbers[scored], labels.numbers[scored])
    rows = np.arange(source.n_cells)
    counts = scipy.sparse.vstack([source.read(rows[block]) for block in row_blocks(len(rows))], format="csr")
    components = principal_components(counts, seed=settings.seed)
    tested = {PCA: components, **_harmonised(components, batches.values, settings.seed), **embeddings}
    found = {
        name: integration_scores(one[scored], batches.numbers[scored], labels.numbers[scored], components[scored])
        for name, one in progress_bar(tested.items(), desc="scores", unit="embedding")
    }
    result = take_target(adata, copy=copy)
    facts = {
        "model": "",
        "revision": "",
        "data": source.data_name,
        "settings": {name: "" if value is None else value for name, value in settings.to_record().items()},
        "versions": package_versions(*_PACKAGES),
        "n_scored": int(scored.sum()),
        "n_seen": int(seen.sum()),
        "has_manifest": has_manifest,
        "scores": {
            "embedding": np.array(list(found), object),
            **{name: np.array([one[name] for one in found.values()]) for name in next(iter(found.values()))},
        },
    }
    facts["settings"]["embedding"] = ",".join(settings.embeddings)
    record(result, settings.key(""), facts)
    return result


def _embedding(adata: "AnnData", name: str) -> np.ndarray:
    if name not in adata.obsm:
        raise ConfigurationError(f"`obsm` has no {name!r} (`embedding`, `--embedding`); it has {sorted(adata.obsm)}.")
    if name in (PCA, PCA_HARMONY):
        raise ConfigurationError(f"`obsm[{name!r}]` is called like a baseline: give it another name.")
    embedding = np.asarray(adata.obsm[name])
    check_embedding(embedding, f"`obsm[{name!r}]`")
    return embedding


def _harmonised(components: np.ndarray, batches: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Harmony on principal components; nothing, which is said, where it cannot be run."""
    try:
        check_harmony(len(components))
    except (ConfigurationError, MissingDependencyError) as error:
        warn(f"The baseline {PCA_HARMONY!r} is left out. {error}")
        return {}
    return {PCA_HARMONY: harmony(components, batches, seed=seed)}


def _seen(
    adata: "AnnData", source: InMemorySource, settings: "EvaluateSettings", column: str
) -> tuple[np.ndarray, bool]:
    """(n_cells,) which cells a model was trained on or chosen by, and whether all models say which."""
    seen, all_say = np.zeros(source.n_cells, bool), True
    records = adata.uns.get("sclm_hf", {})
    for name in settings.embeddings:
        made = records.get(name)
        if not isinstance(made, Mapping):
            all_say = False
            continue
        # a folder that is not here cannot be asked
        model = made.get("model") if Path(str(made.get("model"))).is_dir() else None
        told = seen_by(model, "", source, source.cell_ids())
        seen |= told.trained | told.chose
        all_say &= told.has_manifest
        if made.get("teaches_labels"):
            if column not in adata.obs:
                raise ConfigurationError(
                    f"`{name}` was trained on labels, and `obs[{column!r}]`, which says of which cells, is missing."
                )
            seen |= adata.obs[column].to_numpy(bool)
    if settings.seen == "refuse" and seen.any():
        raise ConfigurationError(
            f"{seen.sum():,} of the {counted(len(seen), 'cell')} were seen in training by the model of "
            f"{', '.join(map(repr, settings.embeddings))}: scores on them say nothing about new cells. Say "
            "`seen='leave_out'` (`--seen leave_out`) to score the others, or `seen='score'` to score all."
        )
    return seen, all_say
