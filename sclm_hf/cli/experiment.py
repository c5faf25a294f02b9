"""`sclm-hf experiment NAME --output DIR`."""

from pathlib import Path
from typing import Annotated

import typer

from ..experiments import EXPERIMENTS


def experiment(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(EXPERIMENTS)}.")],
    output: Annotated[Path, typer.Option(help="Folder to write NAME.md, NAME.json and figures to.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder that holds the data sets in `h5ad/`; by default SCLM_DATA.")
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="Seeds of splits, new weights and training, separated by commas.")
    ] = "0,1,2",
    fast: Annotated[
        bool, typer.Option("--fast", help="Take so little that the run shows only whether it works.")
    ] = False,
) -> None:
    """Run one of the survey's experiments on real data, and write a page with tables and figures.

    Repeat the command to go on with a run that was stopped.
    """
    from ..errors import ConfigurationError
    from ..experiments.running import run_experiment

    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise ConfigurationError(f"`--seeds` are whole numbers separated by commas, got {seeds!r}.") from error
    page = run_experiment(name, output, data=data, seeds=numbers, fast=fast)
    typer.echo(page.read_text(encoding="utf-8").partition("\n## ")[0])
    typer.echo(f"Wrote {page}.")
