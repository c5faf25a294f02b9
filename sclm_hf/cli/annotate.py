"""`sclm-hf annotate INPUT OUTPUT --model DIR`."""

from typing import Annotated

import typer

from .options import (
    BatchKey,
    BatchSize,
    Device,
    Dtype,
    Input,
    Layer,
    Model,
    Output,
    Overwrite,
    Revision,
    Seed,
    Species,
)


def annotate(
    input: Input,
    output: Output,
    model: Model,
    unassigned_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Cells with a smaller highest probability are `unassigned`.")
    ] = 0.0,
    layer: Layer = None,
    species: Species = "human",
    batch_key: BatchKey = None,
    batch_size: BatchSize = 64,
    device: Device = None,
    dtype: Dtype = "float32",
    seed: Seed = 0,
    revision: Revision = None,
    overwrite: Overwrite = False,
) -> None:
    """Add predicted labels, their probabilities and how they were made to a copy of an .h5ad file."""
    from ..tasks.annotate import annotate as run
    from ..tasks.files import check_output, read_h5ad, write_h5ad
    from .coverage_table import print_coverage

    check_output(output, overwrite=overwrite)
    result = run(
        read_h5ad(input),
        model,
        unassigned_threshold=unassigned_threshold,
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
    for label, number in result.obs["sclm_prediction"].value_counts().items():
        typer.echo(f"{number:>8,}  {label}")
    typer.echo(f"Wrote {output} with {result.n_obs:,} cells.")
