"""`sclm-hf embed INPUT OUTPUT --model DIR`."""

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


def embed(
    input: Input,
    output: Output,
    model: Model,
    key: Annotated[str | None, typer.Option(help="Name of the embedding in obsm; `X_<family>` unless given.")] = None,
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
    """Add the cells' embeddings, and how they were made, to a copy of an .h5ad file, or of each in a folder.

    A run that was stopped goes on where it was when it is repeated.
    """
    from ..tasks.files.run_files import embed_files
    from .results import print_files

    print_files(
        lambda: embed_files(
            input,
            output,
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
            overwrite=overwrite,
        )
    )
