"""Arguments and options that several verbs share, each said once."""

from pathlib import Path
from typing import Annotated

import typer

Input = Annotated[
    Path, typer.Argument(help="`.h5ad` file with raw counts, zarr or Parquet corpus, or a folder of .h5ad files.")
]
Output = Annotated[Path, typer.Argument(help="`.h5ad` file to write; for a folder, a folder.")]
Model = Annotated[str, typer.Option(help="Folder or repository id of a checkpoint or an adapter.")]
Layer = Annotated[
    str | None, typer.Option(help="Layer with the data, or `X` or `raw`; else layers['counts'], raw, X.")
]
Species = Annotated[str, typer.Option(help="`human`, or `mouse` to go through orthologs.")]
BatchKey = Annotated[
    str | None,
    typer.Option(
        help="obs column with the names of the batches, or their numbers, if the model asks; with the samples for "
        "CellPLM (by default `batch`)."
    ),
]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Cells a batch; halved when memory runs out. CellPLM takes whole samples.")
]
Device = Annotated[str | None, typer.Option(help="`cuda`, `mps` or `cpu`; the best there is unless given.")]
Dtype = Annotated[str, typer.Option(help="`float32`, `bfloat16` or `float16`.")]
Seed = Annotated[int, typer.Option(help="Seed of what is random about a cell.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT if it exists.")]
