"""`sclm-hf finetune --config RECIPE.yaml [--setting value …]`."""

import typer


def finetune(context: typer.Context) -> None:
    """Fine-tune a model to annotate cells, with LoRA by default; `--help` lists all settings."""
    from ..training.verbs import finetune

    finetune(context.args)
