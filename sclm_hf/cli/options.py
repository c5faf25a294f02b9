"""Arguments and options that several verbs share, each said once; those of settings follow from their fields."""

import dataclasses
from collections.abc import Callable
from dataclasses import Field
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import CorpusError
from ..tasks.running.settings import AddingSettings, flag_of, own_fields_first, with_keywords

Input = Annotated[
    Path, typer.Argument(help="`.h5ad` file with raw counts, zarr or Parquet corpus, or a folder of .h5ad files.")
]
Output = Annotated[Path, typer.Argument(help="`.h5ad` file to write; for a folder, a folder.")]
Model = Annotated[str, typer.Option(help="Folder or repository id of a checkpoint or an adapter.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT and files beside it that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Run the I-th of N contiguous ranges of the cells, and write their results to OUTPUT's name with "
        "`.I-of-N` in it; `sclm-hf merge` joins them.",
    ),
]


def refuse_missing(path: Path) -> None:
    """Refuse at once what would be refused after seconds of imports.

    Raises:
        CorpusError: there is no such file or folder.
    """
    if not path.exists():
        raise CorpusError(f"`{path}` does not exist.")


def option(field: Field) -> Any:
    """The type and the option of a field of settings."""
    about = field.metadata
    limits = {name: about[end] for name, end in (("min", "least"), ("max", "most")) if about[end] is not None}
    # types of torch, which are text here, are named by text on the command line
    kind = str | None if isinstance(field.type, str) else field.type
    text = about["help"][0].upper() + about["help"][1:]
    return Annotated[kind, typer.Option(flag_of(field), help=text, **limits)]


def is_given(context: typer.Context, name: str) -> bool:
    """Whether the command line says something for a parameter, be it the default."""
    return context.get_parameter_source(name).name != "DEFAULT"


def with_settings(settings: type) -> Callable[[Callable], Callable]:
    """Replace the `**settings` of a command's function by one option for each field of `settings` that has a flag."""
    fields = [field for field in own_fields_first(settings) if flag_of(field) is not None]

    def complete(function: Callable) -> Callable:
        function.__signature__ = with_keywords(function, fields, option)
        return function

    return complete


def read_by(settings: type, given: dict[str, Any]) -> list[Path]:
    """The files that settings name and that are read.

    Args:
        settings: their class.
        given: their values by name.
    """
    return [
        Path(given[one.name])
        for one in own_fields_first(settings)
        if "Path" in str(one.type) and not one.metadata["written"] and isinstance(given.get(one.name), str | Path)
    ]


_FIELDS = {field.name: field for field in dataclasses.fields(AddingSettings)}
Genes, Layer, Species = option(_FIELDS["genes"]), option(_FIELDS["layer"]), option(_FIELDS["species"])
Device, Dtype = option(_FIELDS["device"]), option(_FIELDS["dtype"])
Seed, Revision = option(_FIELDS["seed"]), option(_FIELDS["revision"])
