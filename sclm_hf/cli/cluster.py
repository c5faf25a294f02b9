"""`sclm-hf cluster INPUT OUTPUT --model DIR`, or `--use-rep KEY`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..tasks.cluster import ClusterSettings
from .options import Input, Json, Output, Overwrite, with_settings
from .pictures import Picture


def _draw(path: Path, key: str) -> Any:
    from ..evaluation.plots import plot_cells
    from ..tasks.files.h5ad import read_h5ad

    cells = read_h5ad(path)
    record = cells.uns["sclm_hf"][key]
    title = f"Clusters at resolution {record['resolution']:.3g}"
    return plot_cells(cells.obsm[record["umap"]], cells.obs[key].array, title=title)


_PICTURE = Picture("a UMAP of the cells, by cluster", _draw)


@with_settings(ClusterSettings)
def cluster(
    input: Input,
    output: Output,
    model: Annotated[
        str | None, typer.Option(help="Folder or repository id of a checkpoint or an adapter; not with --use-rep.")
    ] = None,
    plot: _PICTURE.option = None,
    table: Annotated[
        Path | None,
        typer.Option(
            help="`.tsv`, `.csv` or `.parquet` file to write too: marker genes; beside it `.json`, how they were made."
        ),
    ] = None,
    as_json: Json = False,
    *,
    overwrite: Overwrite = False,
    **settings: Any,
) -> None:
    """Cluster the cells of an .h5ad file over several resolutions, with stability and marker genes.

    By a model's embeddings, or with --use-rep by those that the file holds.
    """
    from ..tasks.files.file_to_file import run_files
    from .results import print_files

    def run() -> Any:
        return run_files("cluster", input, output, model, overwrite=overwrite, umap=plot is not None, **settings)

    if plot is not None or table is not None:
        _check_beside(plot, table, input, output, overwrite=overwrite)
        _check_asked(table, model, settings)
    if plot is not None:
        run = _PICTURE.drawn(run, plot, settings, output=output, read=[input], overwrite=overwrite)
    print_files(run, _show, as_json=as_json, told=("resolution", "sweep", "markers", "shares", "n_rare"))
    if table is not None:
        _write_markers(output, table, ClusterSettings(**settings).key(""))


def _check_beside(plot: Path | None, table: Path | None, input: Path, output: Path, *, overwrite: bool) -> None:
    from ..errors import ConfigurationError
    from .results import check_table, check_written

    if input.suffix != ".h5ad":
        raise ConfigurationError("`--plot` and `--table` are for one .h5ad file: leave them out, or give such a file.")
    record = None if table is None else check_table(table)
    check_written(table, record, read=[input, output, plot], overwrite=overwrite)


def _check_asked(table: Path | None, model: str | None, settings: dict[str, Any]) -> None:
    from ..errors import ConfigurationError
    from ..opening.specialists import specialist_of

    specialist = None if model is None else specialist_of(model, settings["revision"])
    if specialist is not None:
        raise ConfigurationError(
            f"{specialist.title} has clusters of its own, without an embedding or marker genes: leave out `--plot` "
            "and `--table`."
        )
    if table is not None and not settings["n_markers"]:
        raise ConfigurationError("`--table` is for marker genes, and `--n-markers 0` asks for none: leave one out.")


def _write_markers(output: Path, path: Path, key: str) -> None:
    from ..errors import require
    from ..tasks.clustering.markers import COLUMNS
    from ..tasks.files.results import read_record
    from .results import plain, write_table

    record = read_record(output, key)[0]
    # where all cells are one cluster there are none
    markers = record.pop("markers") or {name: [] for name in COLUMNS}
    table = require("pandas", extra="anndata").DataFrame(markers, columns=list(COLUMNS))
    table.attrs["cluster"] = plain(record)
    write_table(table, path)


def _show(record: dict[str, Any], clusters: Any) -> None:
    # a task-specific model has clusters of its own
    if "sweep" in record:
        _show_sweep(record)
    markers = record.get("markers", {})
    for name, number in clusters.value_counts().items():
        genes = [
            gene
            for cluster, gene in zip(markers.get("cluster", ()), markers.get("gene", ()), strict=True)
            if cluster == name
        ]
        print(f"{number:>8,}  {name}  {' '.join(genes)}".rstrip())
    if "n_rare" in record:
        print(f"{int(record['n_rare']):,} of the clusters are rare.")


def _show_sweep(record: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Clusters over resolutions", title_justify="left")
    for name in ("resolution", "clusters", "stability", ""):
        table.add_column(name, justify="right" if name else "left")
    sweep = record["sweep"]
    for resolution, n_clusters, stability in zip(*(sweep[name] for name in _COLUMNS), strict=True):
        is_chosen = "chosen" if resolution == record["resolution"] else ""
        table.add_row(f"{resolution:.3g}", f"{int(n_clusters):,}", f"{stability:.3f}", is_chosen)
    Console().print(table)


_COLUMNS = ("resolution", "n_clusters", "stability")
