"""`sclm-hf grn INPUT OUTPUT --model DIR`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..tasks.grn import GrnSettings
from .options import Json, Overwrite, with_settings


@with_settings(GrnSettings)
def grn(
    input: Annotated[Path, typer.Argument(help="File with raw counts: `.h5ad`, a zarr folder or Parquet shards.")],
    output: Annotated[
        Path,
        typer.Argument(
            help="`.tsv`, `.csv` or `.parquet` file of edges to write; beside it `.json`, how they were made."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Folder or repository id of a checkpoint or an adapter; if the evidence asks one."),
    ] = None,
    programs: Annotated[
        Path | None, typer.Option(help="`.tsv` file to write too: programs, communities of genes in the network.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Image to write too: the strongest edges.")] = None,
    as_json: Json = False,
    *,
    overwrite: Overwrite = False,
    **settings: Any,
) -> None:
    """Infer a network of genes from a model or from the cells of a file, and compare it with known edges.

    A run that was stopped goes on where it was when it is repeated.
    """
    from ..errors import ConfigurationError
    from ..evaluation.plots import plot_network
    from ..evaluation.plots.drawing import check_image, save_figure
    from ..files import sole_writer, written_whole
    from ..tasks.files.making import table_of_file
    from ..tasks.networks.edges import gene_programs
    from .results import check_table, check_written, plain, write_table

    record = check_table(output)
    if (programs or plot) and settings["condition_key"] is not None:
        raise ConfigurationError("`--programs` and `--plot` are for one network: leave out `--condition-key`.")
    read = [input, *GrnSettings(**settings).files(written=False)]
    check_written(output, record, programs, plot, read=read, overwrite=overwrite)
    if plot is not None:
        check_image(plot)
    making = table_of_file("grn", input, output, model, overwrite=overwrite, **settings)
    with sole_writer(output), making as edges:
        write_table(edges, output)
        if programs is not None:
            with written_whole(programs) as unfinished:
                gene_programs(edges, seed=settings["seed"]).to_csv(unfinished, sep="\t", index=False)
        if plot is not None:
            save_figure(plot_network(edges, seed=settings["seed"]).figure, plot)
    if as_json:
        typer.echo(json.dumps(plain({"file": str(output), "n_edges": len(edges), **edges.attrs})))
        return
    _show(edges)
    typer.echo(f"Wrote {output} with {len(edges):,} edges, and {record.name} beside it.")


def _show(edges: Any) -> None:
    typer.echo(edges.head(10).to_string(index=False, float_format="%.4g"))
    for record in edges.attrs.get("scores", ()):
        name = " ".join(str(record[what]) for what in ("method", "condition") if what in record)
        told = ", ".join(
            f"{label} {record[metric]:.3f} ({_interval(record[metric + '_low'], record[metric + '_high'])})"
            for metric, label in _LABELS.items()
        )
        typer.echo(f"{name}: {told}")
    if scores := edges.attrs.get("scores"):
        n_edges, n_pairs = scores[0]["n_edges"], scores[0]["n_pairs"]
        typer.echo(f"{n_edges:,} known edges among {n_pairs:,} pairs; 95 % intervals over regulators.")


def _interval(low: float, high: float) -> str:
    return "no interval" if low != low else f"{low:.3f} to {high:.3f}"


_LABELS = {"auprc_ratio": "AUPRC ratio", "early_precision_ratio": "early precision ratio", "auroc": "AUROC"}
