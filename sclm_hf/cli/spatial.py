"""`sclm-hf spatial INPUT OUTPUT --model DIR --sample-key COLUMN`, or `--use-rep KEY`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..tasks.spatial import SpatialSettings
from .options import Input, Json, Output, Overwrite, is_given, with_settings
from .pictures import Picture

_KEYS = ("sample_key", "spatial_key")


def _draw(path: Path, key: str) -> Any:
    from ..evaluation.plots import plot_tissue
    from ..tasks.files.h5ad import read_h5ad

    cells = read_h5ad(path)
    record = cells.uns["sclm_hf"][key]
    # a task-specific model knows what they are called
    used = {**record["settings"], **{name: record[name] for name in _KEYS if name in record}}
    sample_key = used.get("sample_key")
    slices = cells.obs[sample_key].to_numpy(str) if sample_key else None
    return plot_tissue(cells.obsm[used["spatial_key"]], cells.obs[key].array, slices=slices)


_PICTURE = Picture("the tissue, coloured by domain", _draw)


@with_settings(SpatialSettings)
def spatial(
    context: typer.Context,
    input: Input,
    output: Output,
    model: Annotated[
        str | None, typer.Option(help="Folder or repository id of a checkpoint or an adapter; not with --use-rep.")
    ] = None,
    plot: _PICTURE.option = None,
    as_json: Json = False,
    *,
    overwrite: Overwrite = False,
    **settings: Any,
) -> None:
    """Divide the tissue of an .h5ad file, or of each in a folder, into domains by embeddings averaged over neighbours.

    By a model's embeddings, or with --use-rep by those that the file holds. A run of a model that was stopped goes on
    where it was when it is repeated.
    """
    from ..tasks.files.file_to_file import run_files
    from .results import print_files

    # a task-specific model knows what they are called
    named = {name: one for name, one in settings.items() if name not in _KEYS or is_given(context, name)}

    def run() -> Any:
        return run_files("spatial", input, output, model, overwrite=overwrite, **named)

    if plot is not None:
        run = _PICTURE.drawn(run, plot, settings, output=output, read=[input], overwrite=overwrite)
    told = ("resolution", "sweep", "slices", "scores", "label_coherence")
    print_files(run, _show, as_json=as_json, told=told)


def _show(record: dict[str, Any], domains: Any) -> None:
    sweep = record["sweep"]
    chosen = (sweep["resolution"] == record["resolution"]).nonzero()[0]
    _print("Domains over resolutions", sweep, ("resolution", "n_domains", "stability", "coherence"), chosen)
    for name, number in domains.value_counts().items():
        print(f"{number:>8,}  {name}")
    if "scores" in record:
        _print("Agreement with the labels", record["scores"], ("method", "n_domains", "ari", "nmi", "coherence"))
        print(f"{record['label_coherence']:.3f} of neighbours have the same label.")


def _print(title: str, columns: dict[str, Any], names: tuple[str, ...], chosen: Any = ()) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name.removeprefix("n_"), justify="left" if name == "method" else "right")
    for number, row in enumerate(zip(*(columns[name] for name in names), strict=True)):
        table.add_row(*map(_cell, row), style="bold" if number in chosen else None)
    Console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return value if isinstance(value, str) else f"{value:,}"
