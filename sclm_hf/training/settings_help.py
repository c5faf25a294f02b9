"""The help of commands whose flags are the fields of dataclasses, in the panels that the other commands have."""

import dataclasses
import textwrap
import types
from collections.abc import Sequence
from dataclasses import MISSING, Field
from typing import Any, Literal, get_args, get_origin, get_type_hints

PANELS = {
    "DataArguments": "Cells",
    "AlignArguments": "Model and texts",
    "FinetuneArguments": "Model and labels",
    "PretrainArguments": "Model and objective",
    "CellTextArguments": "Language model that reads soft tokens of cells (--cell_model)",
    "TextArguments": "Language model that reads names of genes (--text)",
    "TrainingConfig": "Training",
}
"""Dataclass -> the title of its panel."""


def print_help(command: str, about: str, settings: Sequence[type], first: Sequence[str]) -> None:
    """Print the help of a command.

    Args:
        command: its name.
        about: what it does.
        settings: dataclasses whose fields are its flags.
        first: the flags that most runs need, in order; they stand in a panel of their own, before the others.
    """
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    console.print(f"\n [bold yellow]Usage:[/] sclm-hf {command} [--config RECIPE.yaml] [--setting value …]\n")
    console.print(Markdown(about))
    of_name = {field.name: (one, field) for one in settings for field in dataclasses.fields(one)}
    recipe = ("--config", "file", "YAML recipe with any of these settings; flags win over it.")
    rows = [recipe, *(_row(*of_name[name]) for name in first)]
    console.print(_panel("Settings to start with", rows))
    for one in settings:
        rows = [_row(one, field) for field in dataclasses.fields(one) if field.name not in first]
        if rows:
            console.print(_panel(PANELS[one.__name__], rows))


def _panel(title: str, rows: Sequence[tuple[str, str, str]]) -> Any:
    from rich.panel import Panel
    from rich.table import Table

    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column(style="bold yellow", no_wrap=True)
    table.add_column(ratio=1)
    for row in rows:
        table.add_row(*row)
    return Panel(table, title=title, title_align="left", border_style="dim")


def _row(owner: type, field: Field) -> tuple[str, str, str]:
    """Flag, type and help of a setting."""
    kind = get_type_hints(owner)[field.name]
    default = field.default if field.default_factory is MISSING else field.default_factory()
    said = "" if default in (None, MISSING, "", []) else f" [dim]\\[default: {_shown(default)}][/]"
    needed = " [red]\\[required][/]" if default is MISSING else ""
    text = _one_of(kind) + " ".join(textwrap.dedent(field.metadata["help"]).split()).replace("[", "\\[")
    return f"--{field.name}", _kind(kind), f"{text}{said}{needed}"


def _one_of(kind: Any) -> str:
    """The values of a setting that has few, as the beginning of its help."""
    kinds = [kind, *get_args(kind)]
    values = next((get_args(one) for one in kinds if get_origin(one) is Literal), ())
    return f"{', '.join(map(str, values))}: " if values else ""


def _shown(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, list) else str(default)


def _kind(kind: Any) -> str:
    """A type as the other commands name it."""
    if get_origin(kind) is types.UnionType or type(None) in get_args(kind):
        return _kind(next(one for one in get_args(kind) if one is not type(None)))
    if get_origin(kind) is list:
        return f"{_kind(get_args(kind)[0])} …"
    if get_origin(kind) is Literal:
        return "name"
    return {str: "text", int: "int", float: "float", bool: "bool"}.get(kind, "text")
