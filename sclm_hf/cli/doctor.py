"""`sclm-hf doctor [MODEL]`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Json, Revision


def doctor(
    model: Annotated[str | None, typer.Argument(help="Folder or repository id of a model to look at.")] = None,
    cells: Annotated[
        Path | None, typer.Option(help="`.h5ad` file: some of its cells show whether the model tells cells apart.")
    ] = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Say what this machine has for the package, and whether a model is sound; exits with 1 where something is not."""
    import json
    import warnings

    from ..errors import SclmWarning
    from ..tasks.planning.health import examine

    with warnings.catch_warnings():
        # what a warning says is a finding here
        warnings.simplefilter("ignore", SclmWarning)
        health = examine(model, cells, revision)
    if as_json:
        print(json.dumps(health.to_dict(), ensure_ascii=False))
    else:
        for one in [*health.machine, *health.model]:
            typer.echo(f"{'ok ' if one.is_well else 'BAD'}  {one.what}: {one.says}")
    if not health.is_well:
        raise typer.Exit(1)
