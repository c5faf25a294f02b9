"""`sclm-hf gene-embeddings OUTPUT --model DIR`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json, Layer, Model, Overwrite, Species


def gene_embeddings(
    output: Annotated[
        Path,
        typer.Argument(
            help="`.tsv`, `.csv` or `.parquet` file to write, one row per gene; beside it `.json`, how they were made."
        ),
    ],
    model: Model,
    genes: Annotated[
        str | None, typer.Option(help="Names of genes, separated by commas; all that the model knows unless given.")
    ] = None,
    cells: Annotated[
        Path | None,
        typer.Option(help="File of cells: each gene then gets the mean of what the last layer says of it in them."),
    ] = None,
    layer: Layer = None,
    species: Species = None,
    as_json: Json = False,
    *,
    overwrite: Overwrite = False,
) -> None:
    """Write the embeddings that a model has of genes, by name."""
    from ..files import sole_writer
    from ..sources.opening import open_source
    from ..tasks.genes.gene_embeddings import gene_embeddings as table_of
    from .results import check_table, check_written, write_table

    record = check_table(output)
    check_written(output, record, read=[cells], overwrite=overwrite)
    names = None if genes is None else [name.strip() for name in genes.split(",")]
    source = None if cells is None else open_source(cells.stem, cells, layer=layer)
    with sole_writer(output):
        table = table_of(model, names, cells=source, species=species)
        # names of columns are text in Parquet
        table.columns = [str(column) for column in table.columns]
        write_table(table, output)
    if as_json:
        typer.echo(json.dumps({"file": str(output), "n_genes": len(table), "size": table.shape[1], **table.attrs}))
    else:
        size = table.shape[1]
        typer.echo(
            f"Wrote {output} with {len(table):,} genes and {size} numbers for each, and {record.name} beside it."
        )
