"""Verbs whose model is a task-specific one, which makes its own input of all cells at once."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError
from ...versions import package_versions
from .adding import check_columns
from .cell_run import Results
from .provenance import PACKAGES, check_adata, check_target, record, take_target, writable

if TYPE_CHECKING:
    from anndata import AnnData

    from ...opening.specialists import LoadedSpecialist
    from .verb import Verb

_OF_LOADING = ("device", "dtype", "revision")


def open_specialist(
    verb: "Verb", model: Any, processor: Any, given: Mapping[str, Any]
) -> tuple["LoadedSpecialist", dict[str, Any]]:
    """The model, and those settings of a verb that mean something for it.

    Args:
        verb: the verb.
        model: folder, repository id or a model in memory.
        processor: the processor; by default the one saved with the model.
        given: settings of the verb by name.

    Raises:
        ConfigurationError: the verb is none of the model's, or a setting means nothing for it.
        CheckpointError: the model cannot be read.
    """
    from ...opening.specialists import load_specialist

    # what is out of range is refused as ever
    verb.choose(given)
    loaded = load_specialist(
        model, processor=processor, **{name: given[name] for name in _OF_LOADING if given.get(name) is not None}
    )
    known, title = loaded.record.verbs, loaded.record.title
    if verb.name not in known:
        raise ConfigurationError(f"{title} does not serve `{verb.name}`, but {', '.join(known)}.")
    own = {name: value for name, value in given.items() if name not in _OF_LOADING}
    defaults = {field.name: field.default for field in dataclasses.fields(verb.settings)}
    meant = known[verb.name]
    for name, value in own.items():
        if name not in meant and value != defaults[name]:
            raise ConfigurationError(
                f"`{name}` means nothing for {title}, whose `{verb.name}` takes {', '.join(meant) or 'no settings'}: "
                "leave it out."
            )
    return loaded, {name: value for name, value in own.items() if name in meant}


def specialist_results(
    cells: Any, verb: "Verb", model: Any, processor: Any, given: Mapping[str, Any]
) -> tuple["LoadedSpecialist", Any]:
    """The model, and what it makes of cells for a verb: results by place, or a table.

    Args:
        cells: as its processor takes them.
        verb, model, processor, given: as for [`open_specialist`], which see for errors.
    """
    loaded, chosen = open_specialist(verb, model, processor, given)
    return loaded, loaded.processor.results(verb.name, loaded.model, cells, **chosen)


def add_specialist_results(
    adata: "AnnData", verb: "Verb", model: Any, processor: Any, given: Mapping[str, Any], *, copy: bool
) -> "AnnData":
    """Add what a task-specific model makes of the cells of an AnnData; arguments as for `add_to_cells`."""
    check_adata(adata)
    check_target(adata, copy=copy)
    check_columns(adata, verb.choose(dict(given)).columns())
    loaded, found = specialist_results(adata, verb, model, processor, given)
    target = take_target(adata, copy=copy)
    add_found(target, verb, loaded, given, found)
    return target


def add_found(
    target: "AnnData", verb: "Verb", loaded: "LoadedSpecialist", given: Mapping[str, Any], found: Mapping[str, Any]
) -> None:
    """Add what a task-specific model found to cells, and how it was made.

    Args:
        target: the cells, which are changed.
        verb: the verb.
        loaded: the model.
        given: settings of the verb by name.
        found: what the processor gave, see `Verb.of_specialist`.
    """
    settings = verb.choose(dict(given))
    found = verb.of_specialist(found, settings, loaded.record.name, target.obs_names)
    results = Results(**{place: values for place, values in found.items() if place != "facts"})
    for place, values in results.by_place():
        for name, value in values.items():
            getattr(target, place)[name] = value
    entry = {
        "model": loaded.name,
        "revision": loaded.revision,
        "family": loaded.record.name,
        "settings": dict(given),
        "versions": package_versions(*PACKAGES),
        **found.get("facts", {}),
    }
    record(target, settings.key(loaded.record.name), writable(entry))
