"""`sclm-hf pretrain --config RECIPE.yaml [--setting value …]`."""

import typer


def pretrain(context: typer.Context) -> None:
    """Pre-train a model on h5ad files; `--help` lists all settings."""
    from ..training.verbs import pretrain

    pretrain(context.args)
