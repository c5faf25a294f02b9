"""`sclm-hf embed INPUT OUTPUT --model DIR`."""

from pathlib import Path
from typing import Annotated

import typer


def embed(
    input: Annotated[Path, typer.Argument(help="`.h5ad` file with raw counts.")],
    output: Annotated[Path, typer.Argument(help="`.h5ad` file to write.")],
    model: Annotated[str, typer.Option(help="Folder or repository id of a checkpoint or an adapter.")],
    key: Annotated[str | None, typer.Option(help="Name of the embedding in obsm; `X_<family>` unless given.")] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer with the data, or `X` or `raw`; else layers['counts'], raw, X.")
    ] = None,
    species: Annotated[str, typer.Option(help="`human`, or `mouse` to go through orthologs.")] = "human",
    batch_key: Annotated[str | None, typer.Option(help="obs column of batch numbers, if the model asks")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Cells a batch; halved when memory runs out.")] = 64,
    device: Annotated[str | None, typer.Option(help="`cuda`, `mps` or `cpu`; the best there is unless given.")] = None,
    dtype: Annotated[str, typer.Option(help="`float32`, `bfloat16` or `float16`.")] = "float32",
    seed: Annotated[int, typer.Option(help="Seed of what is random about a cell.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT if it exists.")] = False,
) -> None:
    """Add the cells' embeddings, and how they were made, to a copy of an .h5ad file."""
    from ..tasks.embed import embed as run
    from ..tasks.files import check_output, read_h5ad, write_h5ad
    from .coverage_table import print_coverage

    check_output(output, overwrite=overwrite)
    result = run(
        read_h5ad(input),
        model,
        key_added=key,
        layer=layer,
        species=species,
        batch_key=batch_key,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        seed=seed,
        revision=revision,
        copy=False,
    )
    write_h5ad(result, output)
    print_coverage(result)
    typer.echo(f"Wrote {output} with {result.n_obs:,} cells.")
