"""Arguments and options that several verbs share, each said once; those of settings follow from their fields."""

import dataclasses
import functools
import inspect
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import Field
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigurationError, CorpusError, unknown_name
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
    """Replace the `**settings` of a command's function by one option for each field of `settings` that has a flag.

    Beside them stands `--recipe`, which gives them in a file, unless the settings have a recipe of their own.
    """
    fields = [field for field in own_fields_first(settings) if flag_of(field) is not None]

    def complete(function: Callable) -> Callable:
        function.__signature__ = signature = with_keywords(function, fields, option)
        if any(field.name == "recipe" for field in fields):
            return function

        @functools.wraps(function)
        def command(*given: Any, recipe: Path | None = None, **named: Any) -> Any:
            # what it says has become the values of the options
            return function(*given, **named)

        kind = inspect.Parameter.KEYWORD_ONLY
        recipe = inspect.Parameter("recipe", kind, default=None, annotation=recipe_option(fields))
        command.__signature__ = signature.replace(parameters=[*signature.parameters.values(), recipe])
        return command

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


def recipe_option(fields: Sequence[Field]) -> Any:
    """The type of `--recipe`, which gives settings before flags do.

    Args:
        fields: the settings that have flags.
    """

    def take(context: typer.Context, path: Path | None) -> Path | None:
        if path is not None:
            context.default_map = {**(context.default_map or {}), **read_recipe(path, fields)}
        return path

    text = "YAML file with any of these settings, by their names in Python (`batch_key: donor`); flags win over it."
    return Annotated[Path | None, typer.Option("--recipe", help=text, is_eager=True, callback=take)]


def read_recipe(path: Path, fields: Sequence[Field]) -> dict[str, Any]:
    """The settings of a recipe by name, as their flags would be given.

    Args:
        path: the YAML file.
        fields: the settings that it may have.

    Raises:
        ConfigurationError: it cannot be read or is no mapping; or it has a key that is no setting, or a value that
            its flag could not have.
    """
    from ..files import read_yaml

    # as text too, which the flag reads: a number may be the name of a column, and 010 is not 8
    recipe, written = read_yaml(path), read_yaml(path, as_text=True)
    if not isinstance(recipe, dict):
        raise ConfigurationError(
            f"The recipe `{path}` must be a mapping of settings, got {type(recipe).__name__}: write `name: value`."
        )
    known = {field.name: field for field in fields}
    for name, value in recipe.items():
        if name not in known:
            raise unknown_name(str(name), list(known), f" in the recipe `{path}`")
        is_yes_or_no = known[name].type is bool
        if not isinstance(value, str | int | float | date) or isinstance(value, bool) != is_yes_or_no:
            expected = "true or false" if is_yes_or_no else "a text or a number, written as for its flag"
            shown = reprlib.repr(value)[:200]
            raise ConfigurationError(f"`{name}` in the recipe `{path}` must be {expected}, got {shown}.")
    texts = {**recipe, **written}
    return {name: value if isinstance(value, bool) else str(texts[name]) for name, value in recipe.items()}


_FIELDS = {field.name: field for field in dataclasses.fields(AddingSettings)}
Genes, Layer, Species = option(_FIELDS["genes"]), option(_FIELDS["layer"]), option(_FIELDS["species"])
Device, Dtype = option(_FIELDS["device"]), option(_FIELDS["dtype"])
Seed, Revision = option(_FIELDS["seed"]), option(_FIELDS["revision"])
