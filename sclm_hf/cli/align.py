"""`sclm-hf align --model_name_or_path DIR --train_files CELLS.h5ad --label_column COLUMN [--setting value …]`."""

import typer


def align(context: typer.Context) -> None:
    """Train an encoder of cells and one of texts to share a space; `--help` lists all settings."""
    from ..training.verbs import align

    align(context.args)
