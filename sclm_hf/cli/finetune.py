"""`sclm-hf finetune --config RECIPE.yaml [--setting value …]`."""

import typer

from ..errors import require


def finetune(context: typer.Context) -> None:
    """Fine-tune a model to annotate cells, with LoRA by default; `--help` lists all settings."""
    require("accelerate", extra="train")
    from ..training.finetune import main

    main(context.args)
