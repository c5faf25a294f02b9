"""`sclm-hf explain INPUT OUTPUT --model DIR`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..tasks.explain import ExplainSettings
from .options import Json, Model, Overwrite, with_settings


@with_settings(ExplainSettings)
def explain(
    input: Annotated[Path, typer.Argument(help="File with raw counts: `.h5ad`, a zarr folder or Parquet shards.")],
    output: Annotated[
        Path,
        typer.Argument(
            help="`.tsv`, `.csv` or `.parquet` file of genes to write; beside it `.json`, with the curves."
        ),
    ],
    model: Model,
    plot: Annotated[
        Path | None, typer.Option(help="Image to write too: curves of deletion and insertion, beside random.")
    ] = None,
    as_json: Json = False,
    *,
    overwrite: Overwrite = False,
    **settings: Any,
) -> None:
    """Score the genes that speak for the classes of a file's cells, and test the scores by deleting genes.

    A run that was stopped goes on where it was when it is repeated.
    """
    from ..evaluation.plots import plot_explanation
    from ..evaluation.plots.drawing import check_image, save_figure
    from ..files import sole_writer
    from ..tasks.files.making import table_of_file
    from .results import check_table, check_written, write_table

    record = check_table(output)
    read = [input, *ExplainSettings(**settings).files(written=False)]
    per_cell = None if settings["per_cell"] is None else Path(settings["per_cell"])
    check_written(output, record, plot, per_cell, read=read, overwrite=overwrite)
    if plot is not None:
        check_image(plot)
    making = table_of_file("explain", input, output, model, overwrite=overwrite, **settings)
    with sole_writer(output), making as genes:
        write_table(genes, output)
        if plot is not None:
            axes = plot_explanation(genes.attrs["curves"], genes.attrs["fractions"])
            save_figure(axes[0].figure, plot)
    if as_json:
        typer.echo(json.dumps({"file": str(output), "n_rows": len(genes), **genes.attrs}))
        return
    _show(genes)
    typer.echo(f"Wrote {output} with {len(genes):,} rows, and {record.name} beside it.")


def _show(genes: Any) -> None:
    # means over one or two cells are no means
    best = genes[genes["attribution_low"].notna()].groupby(["label", "method"], sort=False).head(5)
    if len(best):
        typer.echo(best.to_string(index=False, float_format="%.4g"))
    for record in genes.attrs["curves"]:
        told = ", ".join(
            f"{what} {record[what]:.3f} ({record[what + '_low']:.3f} to {record[what + '_high']:.3f})"
            for what in ("deletion", "insertion")
        )
        verdicts = "" if record["method"] == "random" else f"; {_verdict(record)}"
        typer.echo(f"{record['method']}: {told}{verdicts}")
    typer.echo("Areas under the curves with 95 % intervals over cells: deletion low, insertion high is good.")


def _verdict(record: dict[str, Any]) -> str:
    """Whether the order is better than a random one in the same cells."""
    ends = [(record[f"{what}_gain_low"], record[f"{what}_gain_high"]) for what in ("deletion", "insertion")]
    if all(low > 0 for low, _ in ends):
        return "better than random by both"
    if all(high < 0 for _, high in ends):
        return "worse than random by both"
    shown = [what for what, (low, _) in zip(("deletion", "insertion"), ends, strict=True) if low > 0]
    return f"better than random by {shown[0]} only" if shown else "not shown to be better than random"
