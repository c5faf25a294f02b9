"""`spatial` by a model that was trained on graphs of spots."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...errors import require
from ...sources.in_memory import InMemorySource
from ..clustering.sweep import check_embedding
from ..running.cell_run import Results
from ..running.provenance import check_adata, check_target, take_target
from ..running.specialists import add_found, open_specialist

if TYPE_CHECKING:
    from anndata import AnnData

    from ..running.verb import Verb


def add_by_specialist(
    verb: "Verb",
    adata: "AnnData",
    model: Any,
    processor: Any,
    given: Mapping[str, Any],
    results_of: Callable[..., tuple[Results, dict[str, Any]]],
    *,
    copy: bool,
) -> "AnnData":
    """Add the domains that Leiden finds in a task-specific model's embedding, which is smooth already.

    Args:
        verb: `spatial`.
        adata: the spots.
        model, processor: as for the verb.
        given: settings of the verb by name.
        results_of: makes the results, and what the record says of them, from the cells, the settings, (cells, size)
            an embedding and what it is called.
        copy: as for the verb.

    Raises:
        ConfigurationError: as for the verb, and of the model's processor.
        Others as for `open_specialist`.
    """
    check_adata(adata)
    check_target(adata, copy=copy)
    require("scanpy", extra="evaluation")
    require("igraph", extra="evaluation")
    loaded, chosen = open_specialist(verb, model, processor, given)
    own = loaded.processor
    names = {name: given.get(name, getattr(own, name)) for name in ("sample_key", "spatial_key")}
    settings = verb.choose({**given, **names, "sample_key": names["sample_key"] or None})
    # None would be that of training
    names["sample_key"] = names["sample_key"] or ""
    key = settings.key(loaded.record.name)
    found = own.results(verb.name, loaded.model, adata, **{**chosen, **names, "key_added": key})
    embedding = found["obsm"][f"X_{key}"]
    check_embedding(embedding, "The embedding")
    source = InMemorySource(adata, settings.layer or own.layer)
    results, facts = results_of(source, settings, embedding, loaded.record.title)
    target = take_target(adata, copy=copy)
    obs = {**found.get("obs", {}), **results.obs}
    add_found(target, verb, loaded, given, {**found, "obs": obs, "facts": {**facts, **names}})
    return target
