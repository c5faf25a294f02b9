"""`sclm-hf finetune --config RECIPE.yaml [--setting value …]`."""

import typer

from ..errors import require


def finetune(context: typer.Context) -> None:
    """Fine-tune a model to annotate cells, with LoRA by default; `--help` lists all settings."""
    require("accelerate", extra="train")
    from ..training.arguments import TrainingConfig, parse_arguments
    from ..training.data import DataArguments
    from ..training.finetune import FinetuneArguments
    from ..training.finetune import finetune as run

    types = (DataArguments, FinetuneArguments, TrainingConfig)
    result = run(*parse_arguments(types, context.args, prog="sclm-hf finetune"))
    if result.is_main_process:
        typer.echo(result.summary())
