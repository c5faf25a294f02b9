"""`sclm-hf convert FAMILY SOURCE OUTPUT`."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    family: Annotated[str, typer.Argument(help="Family of the checkpoint, for example `scgpt`.")],
    source: Annotated[Path, typer.Argument(help="Folder with the original release.")],
    output: Annotated[Path, typer.Argument(help="Folder to write.")],
) -> None:
    """Turn an original checkpoint into a Hugging Face folder."""
    import importlib

    from ..registry import get_family

    module = importlib.import_module(get_family(family).conversion_module)
    report = module.convert_checkpoint(source, output)
    typer.echo(report.summary())
