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
    key: Annotated[
        str | None,
        typer.Option(help="Name of the labels in obs, to keep those of several models; `sclm_prediction`."),
    ] = None,
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
    """Add predicted labels, and how they were made, to a copy of an .h5ad file, or of each in a folder.

    A run that was stopped goes on where it was when it is repeated.
    """
    from ..tasks.files.run_files import annotate_files
    from .results import print_files

    print_files(
        lambda: annotate_files(
            input,
            output,
            model,
            key_added=key,
            unassigned_threshold=unassigned_threshold,
            layer=layer,
            species=species,
            batch_key=batch_key,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            seed=seed,
            revision=revision,
            overwrite=overwrite,
        )
    )
