"""How a result was made, in a form that every `.h5ad` file can hold."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError, require
from ...logging import warn
from ...versions import package_versions

if TYPE_CHECKING:
    from anndata import AnnData

    from ...opening.loading import LoadedModel
    from .prepared_cells import PreparedCells

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "anndata", "peft")


def check_adata(adata: Any) -> None:
    """Raise if this is not an AnnData, before a model is loaded.

    Raises:
        ConfigurationError: it is something else, for example the path of a file.
    """
    # a data frame has a method of this name
    if isinstance(getattr(adata, "mod", None), Mapping):
        raise ConfigurationError("A MuData holds several modalities: give the one to read, such as `mdata['rna']`.")
    if not isinstance(adata, require("anndata", extra="anndata").AnnData):
        raise ConfigurationError(
            f"The cells must be an AnnData, got {type(adata).__name__}: read a file with `anndata.read_h5ad(path)`; "
            "`sclm_hf.tasks.files.file_to_file.run_files` goes from file to file."
        )


def check_target(adata: "AnnData", *, copy: bool) -> None:
    """Raise if results cannot be added to an AnnData, before any work is done.

    Args:
        adata: the cells.
        copy: whether results are added to a copy.

    Raises:
        ConfigurationError: `uns["sclm_hf"]` holds something else, or `adata` is a view of a backed AnnData.
    """
    there = adata.uns.get("sclm_hf", {})
    if not isinstance(there, Mapping):
        raise ConfigurationError(
            f'`uns["sclm_hf"]` must be a mapping of records, got {type(there).__name__}: rename or delete it.'
        )
    if not copy and adata.isbacked and adata.is_view:
        raise ConfigurationError("Nothing can be added to a part of a backed AnnData: pass `copy=True`.")


def take_target(adata: "AnnData", *, copy: bool) -> "AnnData":
    """The AnnData that results will be added to: `adata` itself, or a copy, in memory if it is backed."""
    if copy:
        return adata.to_memory() if adata.isbacked else adata.copy()
    return adata


def record(adata: "AnnData", name: str, entry: dict[str, Any]) -> None:
    """Write what `make_record` made to `uns["sclm_hf"][name]`.

    Records of other names are kept; the newest is last. Warns if results of another model are replaced.
    """
    others = dict(adata.uns.get("sclm_hf", {}))
    before = others.pop(name, None)
    if isinstance(before, Mapping) and any(before.get(what) != entry[what] for what in ("model", "revision")):
        warn(
            f"`{entry['model']}` replaced results {name!r} of `{before.get('model')}`; another `key_added` (`--key`) "
            "keeps both."
        )
    adata.uns["sclm_hf"] = {**others, name: entry}


def make_record(loaded: "LoadedModel", cells: "PreparedCells", settings: dict) -> dict[str, Any]:
    """Model, revision, versions, settings and coverage of the genes, in types that every `.h5ad` file can hold."""
    entry = {
        **model_record(loaded, settings),
        "data": cells.source.data_name,
        "coverage": cells.coverage.to_dict(),
    }
    if cells.samples is not None:
        entry["samples"] = cells.samples.to_dict()
    return writable(entry)


def model_record(loaded: "LoadedModel", settings: dict) -> dict[str, Any]:
    """Model, revision, versions and settings, where there are no cells."""
    return writable(
        {
            "model": loaded.name,
            "revision": loaded.revision,
            "family": loaded.model.config.model_type,
            "dtype": str(loaded.model.dtype).removeprefix("torch."),
            "device": loaded.model.device.type,
            "settings": settings,
            "versions": package_versions(*PACKAGES),
        }
    )


def writable(value: Any) -> Any:
    """`value` as numbers, strings and dictionaries, which all versions of the file format support."""
    if isinstance(value, dict):
        return {str(key): writable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return "; ".join(" -> ".join(item) if isinstance(item, (list, tuple)) else str(item) for item in value)
    return "" if value is None else value
