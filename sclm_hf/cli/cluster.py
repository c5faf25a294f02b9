"""`sclm-hf cluster INPUT OUTPUT --model DIR`, or `--use-rep KEY`."""

from typing import Annotated, Any

import typer

from ..tasks.cluster import ClusterSettings
from .options import Input, Json, Output, Overwrite, with_settings


@with_settings(ClusterSettings)
def cluster(
    input: Input,
    output: Output,
    model: Annotated[
        str | None, typer.Option(help="Folder or repository id of a checkpoint or an adapter; not with --use-rep.")
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
        return run_files("cluster", input, output, model, overwrite=overwrite, **settings)

    print_files(run, _show, as_json=as_json, told=("resolution", "sweep", "markers", "shares", "n_rare"))


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
