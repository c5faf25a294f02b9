"""The tools that the app offers to agents (MCP): files inside one folder in, files and what they hold out."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from .cells import read_upload
from .limits import limited_time
from .settings import AppSettings

if TYPE_CHECKING:
    from anndata import AnnData


def make_tools(settings: AppSettings) -> tuple[Callable[..., dict[str, Any]], ...]:
    """The tools `embed`, `annotate`, `perturb` and `map`, for the folder and with the limits of the settings."""

    def embed(file: str, model: str = "") -> dict[str, Any]:
        """Embed the cells of an .h5ad file with a single-cell model; writes them to a new file beside it.

        Args:
            file: path of an .h5ad file with raw counts, inside the upload folder.
            model: name of one of the models of the app; empty for its first.
        """
        from ..tasks.embed import embed as run

        with limited_time(settings.time_limit):
            cells = run(_cells(file, settings), choose_model(model, settings), key_added="X_sclm")
        return _written(cells, file, "embed", settings) | {"embedding": list(cells.obsm["X_sclm"].shape)}

    def annotate(file: str, model: str = "") -> dict[str, Any]:
        """Predict the cell type of each cell of an .h5ad file; writes them to a new file beside it.

        Args:
            file: path of an .h5ad file with raw counts, inside the upload folder.
            model: name of one of the models of the app; empty for its first.
        """
        from ..tasks.annotate import annotate as run

        with limited_time(settings.time_limit):
            cells = run(_cells(file, settings), choose_model(model, settings))
        numbers = cells.obs["sclm_prediction"].value_counts()
        counted = {str(label): int(number) for label, number in numbers.items() if number}
        return _written(cells, file, "annotate", settings) | {"cells_per_label": counted}

    def perturb(file: str, genes: list[str], mode: str = "delete", model: str = "") -> dict[str, Any]:
        """Delete or over-express genes in silico, and measure how far the model moves each cell.

        Args:
            file: path of an .h5ad file with raw counts, inside the upload folder.
            genes: names of the genes to perturb, each by itself.
            mode: "delete" or "overexpress".
            model: name of one of the models of the app; empty for its first.
        """
        from ..tasks.perturb import perturb as run

        with limited_time(settings.time_limit):
            chosen = choose_model(model, settings)
            effects = run(_cells(file, settings), chosen, genes=list(genes), mode=mode)
        similarity = {str(gene): float(value) for gene, value in effects.var["similarity"].items()}
        return _written(effects, file, "perturb", settings) | {"mean_similarity": similarity}

    def map(file: str, reference: str, label_key: str, model: str = "") -> dict[str, Any]:
        """Give cells the labels of their nearest cells in a labelled reference; writes them to a new file.

        Args:
            file: path of an .h5ad file with raw counts, inside the upload folder.
            reference: path of an .h5ad file of labelled cells, inside the upload folder.
            label_key: column of obs of the reference with the labels.
            model: name of one of the models of the app; empty for its first.
        """
        from ..tasks.map import map as run

        with limited_time(settings.time_limit):
            known = _cells(reference, settings)
            chosen = choose_model(model, settings)
            cells = run(_cells(file, settings), chosen, reference=known, label_key=label_key)
        counted = {str(label): int(n) for label, n in cells.obs["sclm_map"].value_counts().items() if n}
        return _written(cells, file, "map", settings) | {"cells_per_label": counted}

    return embed, annotate, perturb, map


def model_names(settings: AppSettings) -> dict[str, str]:
    """The models by the names that the app calls them: of a folder its last part, unless two share it."""
    names = [Path(model).name if Path(model).is_dir() else model for model in settings.models]
    return {
        model if names.count(name) > 1 else name: model for name, model in zip(names, settings.models, strict=True)
    }


def choose_model(name: str, settings: AppSettings) -> str:
    """The folder or repository of a model by its name in the app.

    Raises:
        ConfigurationError: the app has no such model.
    """
    models = model_names(settings)
    if name and name not in models:
        raise ConfigurationError(f"The app has no model {name!r}: choose one of {', '.join(models)}.")
    return models[name] if name else settings.models[0]


def inside(file: str, folder: str | Path) -> Path:
    """The path of a file inside a folder, from the folder or absolute.

    Raises:
        ConfigurationError: it lies elsewhere, also through links, or there is no such file.
    """
    folder = Path(folder).resolve()
    try:
        path = (folder / file).resolve()
        found = path.is_relative_to(folder) and path.is_file()
    except (OSError, ValueError, RuntimeError):
        found = False
    if not found:
        raise ConfigurationError(f"There is no file {file!r} in the upload folder: upload it first.")
    return path


def _cells(file: str, settings: AppSettings) -> "AnnData":
    return read_upload(inside(file, settings.folder), settings)


def _written(cells: "AnnData", file: str, verb: str, settings: AppSettings) -> dict[str, Any]:
    """Write a result beside its source, and say where."""
    from ..tasks.files.h5ad import write_h5ad

    source = inside(file, settings.folder)
    path = source.with_name(f"{source.stem}.{verb}.h5ad")
    write_h5ad(cells, path)
    relative = path.relative_to(Path(settings.folder).resolve()).as_posix()
    return {"file": relative, "path": str(path), "n_cells": cells.n_obs}
