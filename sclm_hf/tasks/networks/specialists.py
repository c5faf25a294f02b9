"""Networks by task-specific models, which score pairs of genes or give a table of edges."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError
from ...evaluation.networks import KnownPairs
from ...opening.specialists import LoadedSpecialist, specialist_of
from ..running.specialists import open_specialist

if TYPE_CHECKING:
    from ..grn import GrnSettings
    from ..running.verb import Verb
    from .evidence import NetworkCells


def with_evidence(model: Any, given: Mapping[str, Any], default: str) -> dict[str, Any]:
    """The settings of `grn`, where a task-specific model is evidence of its own.

    Args:
        model: folder, repository id, a model in memory or None.
        given: settings by name.
        default: the evidence where none is given.

    Raises:
        ConfigurationError: the settings ask for other evidence.
    """
    record = None if model is None else specialist_of(model, given.get("revision"))
    if record is None or "grn" not in record.verbs:
        return dict(given)
    asked = given.get("evidence", default)
    if asked not in (default, record.name):
        raise ConfigurationError(
            f"{record.title} is evidence of its own: leave out `evidence` (`--evidence`), got {asked!r}; or leave out "
            "the model."
        )
    return {**given, "evidence": record.name}


def load_specialist_for(
    verb: "Verb", model: Any, processor: Any, settings: "GrnSettings"
) -> tuple[LoadedSpecialist, "GrnSettings"]:
    """The model, and settings that read the layer that it reads; errors as for `open_specialist`."""
    given = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    loaded, _ = open_specialist(verb, model, processor, given)
    return loaded, dataclasses.replace(settings, layer=getattr(loaded.processor, "layer", None))


def score_by_specialist(cells: "NetworkCells") -> np.ndarray:
    """(regulators, targets) float32 of the model; NaN where it does not know.

    Raises:
        ConfigurationError: the evidence is of another model.
    """
    loaded, (regulators, targets) = cells.loaded, _names(cells)
    found = loaded.processor.results(
        "grn", loaded.model, cells.adata, regulators=regulators, targets=targets, seed=cells.settings.seed
    )
    if isinstance(found, np.ndarray):
        return found
    scores = np.full((len(regulators), len(targets)), np.nan, np.float32)
    row_of, column_of = ({name: place for place, name in enumerate(names)} for names in (regulators, targets))
    found = found[found["regulator"].isin(row_of) & found["target"].isin(column_of)]
    scores[found["regulator"].map(row_of), found["target"].map(column_of)] = found["score"]
    return scores


def without_seen(known: KnownPairs, cells: "NetworkCells") -> KnownPairs:
    """The pairs to compare scores with, without those that the model was told of in training.

    As everywhere, they are of regulators with an edge among them.

    Raises:
        ConfigurationError: none is left.
    """
    if not isinstance(cells.loaded, LoadedSpecialist):
        return known
    unseen = known.tested & ~cells.loaded.processor.seen_pairs(*_names(cells))
    edges = known.edges & unseen
    tested = unseen & edges.any(axis=1, keepdims=True)
    if not edges.any() or edges[tested].all():
        raise ConfigurationError(
            f"{cells.loaded.record.title} was told of all but {int(unseen.sum()):,} of {int(known.tested.sum()):,} "
            "pairs in training, which leaves nothing to compare: hold regulators out then (`split`, `--set "
            "split=regulators`), or leave out `network` (`--network`)."
        )
    return KnownPairs(tested, edges, known.n_edges)


def _names(cells: "NetworkCells") -> tuple[list[str], list[str]]:
    """Names of the regulators and of the targets."""
    genes = cells.genes
    return tuple([str(name) for name in genes.names[places]] for places in (genes.regulators, genes.targets))
