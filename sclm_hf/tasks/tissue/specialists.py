"""`spatial` by a model that was trained on graphs of spots."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import require
from ...sources.in_memory import InMemorySource
from ..clustering.sweep import check_embedding
from ..running.provenance import check_adata, check_target, take_target
from ..running.specialists import add_found, open_specialist

if TYPE_CHECKING:
    from anndata import AnnData

    from ..running.verb import Verb


def add_by_specialist(
    verb: "Verb", adata: "AnnData", model: Any, processor: Any, given: Mapping[str, Any], *, copy: bool
) -> "AnnData":
    """Add the domains that Leiden finds in a task-specific model's embedding, which is smooth already.

    Args:
        verb: `spatial`.
        adata: the spots.
        model, processor: as for the verb.
        given: settings of the verb by name.
        copy: as for the verb.

    Raises:
        ConfigurationError: as for the verb, and of the model's processor.
        Others as for `open_specialist`.
    """
    from ..spatial import TissueCells

    check_adata(adata)
    check_target(adata, copy=copy)
    require("scanpy", extra="evaluation")
    require("igraph", extra="evaluation")
    loaded, chosen = open_specialist(verb, model, processor, given)
    own = loaded.processor
    settings = verb.choose({"sample_key": own.sample_key, "spatial_key": own.spatial_key, **given})
    names = {"sample_key": settings.sample_key, "spatial_key": settings.spatial_key}
    key = settings.key(loaded.record.name)
    found = own.results(verb.name, loaded.model, adata, **{**chosen, **names, "key_added": key})
    embedding = found["obsm"][f"X_{key}"]
    check_embedding(embedding, "The embedding")
    tissue = TissueCells(InMemorySource(adata, settings.layer or own.layer), settings)
    results, facts = tissue.results(embedding, loaded.record.title, is_smooth=True)
    target = take_target(adata, copy=copy)
    obs = {**found.get("obs", {}), **results.obs}
    add_found(target, verb, loaded, given, {**found, "obs": obs, "facts": facts})
    return target
