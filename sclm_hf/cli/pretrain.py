"""`sclm-hf pretrain --config RECIPE.yaml [--setting value …]`."""

import typer

from ..errors import require


def pretrain(context: typer.Context) -> None:
    """Pre-train a model on h5ad files; `--help` lists all settings."""
    require("accelerate", extra="train")
    from ..training.pretrain import main

    main(context.args)
