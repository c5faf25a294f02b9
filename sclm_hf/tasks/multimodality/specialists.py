"""Verbs by a model that was trained on two modalities."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError
from ..files.h5ad import read_h5ad
from ..running.provenance import check_adata, check_target, take_target
from ..running.specialists import add_found, open_specialist

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from ..running.verb import Verb


def add_by_specialist(
    verb: "Verb",
    cells: "AnnData | MuData",
    other: Any,
    model: Any,
    processor: Any,
    given: Mapping[str, Any],
    *,
    copy: bool,
) -> "AnnData | MuData":
    """Add what a task-specific model makes of RNA and another modality to the RNA.

    Args:
        verb: the verb, such as `multimodal`.
        cells: RNA; or a MuData of both.
        other: the other modality, an AnnData or an `.h5ad` file; None where it is in the MuData, or where the model
            predicts it.
        model, processor: as for the verb.
        given: settings of the verb by name, without `other`.
        copy: as for the verb.

    Raises:
        ConfigurationError: the modalities do not fit the model.
        Others as for `open_specialist`, and of the model's processor.
    """
    loaded, chosen = open_specialist(verb, model, processor, given)
    in_mudata = hasattr(cells, "mod")
    if in_mudata and other is not None:
        raise ConfigurationError("A MuData holds the other modality: leave out `other`, or give `mdata['rna']`.")
    if in_mudata and cells.is_view and not copy:
        raise ConfigurationError("Nothing can be added to a part of a MuData: pass `copy=True`.")
    settings = verb.choose(given)
    modality = _other_name(loaded, chosen.pop("kind", None))
    rna_key, other_key = (
        getattr(settings, name, default) for name, default in (("rna_key", "rna"), ("other_key", None))
    )
    if in_mudata:
        named = {rna_key: "rna", **({other_key: modality} if other_key else {})}
        pair = {named.get(name, name): one for name, one in cells.mod.items()}
        if "rna" not in pair:
            raise ConfigurationError(
                f"The MuData has no modality {rna_key!r}, it has {list(cells.mod)}: name it with `rna_key`."
            )
    else:
        check_adata(cells)
        read = read_h5ad(other) if isinstance(other, str | Path) else other
        pair = {"rna": cells} | ({} if read is None else {modality: read})
    check_target(pair["rna"], copy=copy)
    for name in ("rna_key", "other_key"):
        chosen.pop(name, None)
    chosen["key_added"] = settings.key(loaded.record.name)
    found = loaded.processor.results(verb.name, loaded.model, pair, **chosen)
    if in_mudata:
        result = cells.copy() if copy else cells
        target = result.mod[rna_key]
    else:
        result = target = take_target(cells, copy=copy)
    facts = {"kind": modality, "method": loaded.record.title, **found.get("facts", {})}
    add_found(target, verb, loaded, given, {**found, "facts": facts})
    return result


def _other_name(loaded: Any, kind: str | None) -> str:
    """The name of the modality beside RNA.

    Raises:
        ConfigurationError: `kind` is none that the model reads.
    """
    others = [name for name in loaded.processor.modalities if name != "rna"]
    if not others:
        raise ConfigurationError(
            f"This {loaded.record.title} was trained on RNA alone: use `embed` (`sclm_hf.embed(rna, model)`, or "
            "`sclm-hf embed RNA OUTPUT --model DIR`)."
        )
    if kind is not None and kind not in others:
        raise ConfigurationError(
            f"{loaded.record.title} was trained on rna and {' and '.join(others)}, and `kind` (`--kind`) says "
            f"{kind!r}."
        )
    return kind or others[0]
