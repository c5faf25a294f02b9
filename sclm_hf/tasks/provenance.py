"""How a result came about, in a form that every `.h5ad` file can hold."""

from typing import TYPE_CHECKING, Any

from ..evaluation.reports import package_versions

if TYPE_CHECKING:
    from anndata import AnnData

    from .inference import PreparedCells
    from .loading import LoadedModel

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "anndata", "peft")


def record(adata: "AnnData", name: str, loaded: "LoadedModel", cells: "PreparedCells", settings: dict) -> None:
    """Write `uns["sclm_hf"][name]`: model, revision, versions, settings and coverage of the genes.

    Records of other names stay; the newest stands last.
    """
    entry = {
        "model": loaded.name,
        "revision": loaded.revision,
        "family": loaded.model.config.model_type,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "device": loaded.model.device.type,
        "data": cells.source,
        "settings": settings,
        "versions": package_versions(*_PACKAGES),
        "coverage": cells.coverage.to_dict(),
    }
    others = {key: value for key, value in adata.uns.get("sclm_hf", {}).items() if key != name}
    adata.uns["sclm_hf"] = {**others, name: _writable(entry)}


def _writable(value: Any) -> Any:
    """`value` in numbers, strings and dictionaries, which all versions of the file format know."""
    if isinstance(value, dict):
        return {str(key): _writable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return "; ".join(" -> ".join(item) if isinstance(item, (list, tuple)) else str(item) for item in value)
    return "" if value is None else value
