"""Results of a verb for the cells of an AnnData in memory."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError
from .prepared_cells import prepare_cells
from .provenance import check_adata, check_target, make_record, record, take_target

if TYPE_CHECKING:
    from anndata import AnnData

    from ...tokenization.processing_cell import CellProcessor
    from .cell_run import Results
    from .verb import Verb


def add_to_cells(
    adata: "AnnData",
    verb: "Verb",
    model: Any,
    processor: "CellProcessor | None",
    given: Mapping[str, Any],
    *,
    copy: bool,
) -> "AnnData":
    """Run the cells through a model, and add what a verb makes of them.

    Args:
        adata: cells.
        verb: the verb.
        model: folder or repository id of a checkpoint or an adapter; or a loaded model.
        processor: the processor; by default the one saved with the model.
        given: settings by name.
        copy: add to a copy in memory; False adds to `adata` itself (but not to the file of a backed one).

    Returns:
        The AnnData with the results, and with a record of how they were made.

    Raises:
        SclmError: see the function of the verb.
    """
    check_adata(adata)
    check_target(adata, copy=copy)
    settings = verb.choose(given)
    check_columns(adata, settings.columns())
    loaded = verb.load(model, processor, settings)
    result = take_target(adata, copy=copy)
    cells = prepare_cells(
        result,
        loaded,
        layer=settings.layer,
        species=settings.species,
        batch_key=settings.batch_key_for(loaded),
        genes=settings.genes_read,
    )
    run = verb.start(loaded, cells, settings)
    _put(result, run.results(slice(None), run.all_values()), verb)
    record(result, run.key, make_record(loaded, cells, run.recorded_settings()))
    result.uns["sclm_hf"][run.key] |= run.facts(None)
    return result


def check_columns(adata: "AnnData", columns: tuple[str, ...]) -> None:
    """Raise if a new column would have the name under which the names of the cells are stored."""
    if clash := {adata.obs.index.name, "_index"} & set(columns):
        raise ConfigurationError(
            f"{clash.pop()!r} is what the names of the cells are called in `obs`: give another `key_added` (`--key`)."
        )


def _put(adata: "AnnData", results: "Results", verb: "Verb") -> None:
    """Add results to an AnnData, or replace those of the same names."""
    for place, values in results.by_place():
        if values and place not in verb.writes:
            raise TypeError(f"`{verb.name}` gives results for `{place}`, which its record does not name.")
        target = getattr(adata, place)
        for name, value in values.items():
            target[name] = value
