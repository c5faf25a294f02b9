"""`sclm-hf export`: `with-code`, `torch-export`, `onnx` and `sentence-transformers`."""

from pathlib import Path
from typing import Annotated

import typer

export = typer.Typer(help="Models for where this package is not.", no_args_is_help=True)


@export.callback()
def _about() -> None:
    """Models for where this package is not."""


@export.command("sentence-transformers")
def sentence_transformers(
    model: Annotated[str, typer.Argument(help="Folder or repository of a dual encoder of cells and text.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; it must be empty or not exist.")],
) -> None:
    """Write a dual encoder as a folder that sentence-transformers opens."""
    from ..errors import require

    require("sentence_transformers", extra="text")
    from ..hub.sentence_transformers import export_sentence_transformer

    folder = export_sentence_transformer(model, output)
    typer.echo(
        f"Wrote {folder}. Open it with `sclm_hf.hub.sentence_transformers.open_sentence_transformer`, or with "
        f"`SentenceTransformer({str(folder)!r}, trust_remote_code=True)`: the library asks for this of any class that "
        "is not its own, and the folder holds no code."
    )


@export.command("with-code")
def with_code(
    folder: Annotated[Path, typer.Argument(help="Folder of a model with its processor.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; it must be empty or not exist.")],
) -> None:
    """Write a copy of a model that brings its code, for transformers where this package is not installed."""
    from ..hub.remote_code import export_with_code

    exported = export_with_code(folder, output)
    typer.echo(
        f"Wrote {exported}. Without this package it opens with `AutoModel.from_pretrained({str(exported)!r}, "
        "trust_remote_code=True)`, and so do its processor and tokenizer."
    )


_Model = Annotated[str, typer.Argument(help="Folder or repository of a model of one of the families.")]
_Output = Annotated[Path, typer.Argument(help="Folder to write; it must be empty or not exist.")]
_Task = Annotated[str, typer.Option(help="What it is for: `embed`, or `annotate` for a classifier of cells.")]


@export.command("torch-export")
def torch_export(model: _Model, output: _Output, task: _Task = "embed") -> None:
    """Write a model as a program of `torch.export`, which runs without its code."""
    _export_program(model, output, "torch-export", task)


@export.command("onnx")
def onnx(model: _Model, output: _Output, task: _Task = "embed") -> None:
    """Write a model as ONNX, for ONNX Runtime and other engines."""
    _export_program(model, output, "onnx", task)


def _export_program(model: str, output: Path, format: str, task: str) -> None:
    from ..hub.programs import export_program

    folder = export_program(model, output, format=format, task=task)
    typer.echo(
        f"Wrote {folder}: the program, whose results were compared with the model's, and the processor. Open it with "
        f"`transformers.exporters.ExportedModel.from_pretrained({str(folder)!r})`."
    )
