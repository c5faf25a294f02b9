"""`sclm-hf pretrain --config RECIPE.yaml [--setting value …]`."""

import typer

from ..errors import require


def pretrain(context: typer.Context) -> None:
    """Pre-train a model on h5ad files; `--help` lists all settings."""
    require("accelerate", extra="train")
    from ..training.arguments import TrainingConfig, parse_arguments
    from ..training.data import DataArguments
    from ..training.pretrain import PretrainArguments
    from ..training.pretrain import pretrain as run

    types = (DataArguments, PretrainArguments, TrainingConfig)
    result = run(*parse_arguments(types, context.args, prog="sclm-hf pretrain"))
    if result.is_main_process:
        typer.echo(result.summary())
