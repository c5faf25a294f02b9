"""`sclm-hf models`."""

from typing import Annotated

import typer

from .options import Json


def models(
    family: Annotated[
        str | None,
        typer.Argument(help="One family, task-specific model, or kind of model of cells and text; all unless given."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the families: released sizes, tasks, licences, and whether converted weights may be hosted again.

    Then come the models of cells and text, which hold a cell encoder of one of the families, and the task-specific
    models that `sclm-hf fit` trains. Of one family it also says where weights are and what `sclm-hf convert` takes.
    """
    import json

    from ..registry import COMPOSITES, FAMILIES, get_family
    from ..registry.specialists import SPECIALISTS

    specialists = [one for one in SPECIALISTS.values() if family in (None, one.name)]
    composites = [one for one in COMPOSITES.values() if family in (None, one.name)]
    if family is None:
        chosen = [FAMILIES[name] for name in sorted(FAMILIES)]
    else:
        chosen = [] if composites or specialists else [get_family(family)]
    if as_json:
        facts = [*map(_facts, chosen), *map(_composite_facts, composites), *map(_specialist_facts, specialists)]
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    # a pipe gets whole lines: a table cut to a width that nobody asked for loses words
    console = Console() if Console().is_terminal else Console(width=160)
    if chosen:
        console.print(_overview(chosen))
    for one in chosen:
        console.print(_sizes(one))
    if composites:
        console.print(_composites(composites))
    if specialists:
        console.print(_specialists(specialists))
    if family is not None and chosen:
        console.print(_origin(chosen[0]), soft_wrap=True)


def _origin(family) -> str:
    if family.source_layout:
        where = f"The weights are {family.weights_from}. " if family.weights_from else ""
        return f"{where}`sclm-hf convert {family.name} SOURCE OUTPUT` takes {family.source_layout}."
    return f"There is nothing to convert: `sclm-hf finetune --model_name_or_path {family.name}` fits a model."


def _facts(family) -> dict:
    return {
        "family": family.name,
        "title": family.title,
        "paper": family.paper,
        "repository": family.repository,
        "tasks": _verbs(family),
        "sizes": family.sizes,
        "source_layout": family.source_layout,
        "weights_from": family.weights_from,
        "code_license": family.code_license,
        "weights_license": _license(family),
        "weights_license_note": family.weights_license_note,
        "weights_license_link": family.weights_license_link,
        "redistributable": family.redistributable,
        "auto_classes": family.auto_classes,
    }


def _composite_facts(composite) -> dict:
    return {
        "family": composite.name,
        "title": composite.title,
        "paper": composite.paper,
        "tasks": list(composite.verbs),
        "auto_classes": composite.auto_classes,
    }


def _specialist_facts(specialist) -> dict:
    return {
        "family": specialist.name,
        "title": specialist.title,
        "paper": specialist.paper,
        "repository": specialist.repository,
        "task": specialist.task,
        "reads": specialist.reads,
        "tasks": list(specialist.verbs),
        "code_license": specialist.code_license,
        "transductive": specialist.transductive,
        "auto_classes": specialist.auto_classes,
    }


def _specialists(specialists):
    from rich.table import Table

    table = Table(title="Task-specific models (`sclm-hf fit MODEL CELLS OUTPUT`)", title_justify="left")
    alone = len(specialists) == 1
    names = ("model type", "model", "what it does", "trained on", "verbs", "licence of the code")
    for name in (*names, "paper") if alone else names:
        table.add_column(name, overflow="fold")
    for one in specialists:
        row = (one.name, one.title, one.task, one.reads, ", ".join(one.verbs), one.code_license)
        table.add_row(*row, *([one.paper] if alone else []))
    if not alone:
        table.caption, table.caption_justify = "Papers: `sclm-hf models MODEL`.", "left"
    return table


def _composites(composites):
    from rich.table import Table

    table = Table(title="Models of cells and text, around a cell encoder of a family", title_justify="left")
    for name in ("model type", "model", "tasks", "paper"):
        table.add_column(name, overflow="fold")
    for one in composites:
        table.add_row(one.name, one.title, ", ".join(one.verbs), one.paper)
    return table


def _verbs(family) -> list[str]:
    from ..tasks import get_verb, verb_names

    return [name for name in verb_names() if get_verb(name).serves(family)]


def _license(family) -> str:
    return family.weights_license_name or family.weights_license


def _overview(families):
    from rich.table import Table

    table = Table(title="Families (`sclm-hf convert FAMILY SOURCE OUTPUT`)", title_justify="left")
    columns = ("family", "model", "tasks", "original", "licence of the code", "of the weights", "may be hosted again")
    for name in columns:
        table.add_column(name, overflow="fold")
    for one in families:
        hosted = "yes" if one.redistributable else "no"
        licenses = (one.code_license, _license(one), hosted)
        table.add_row(one.name, one.title, ", ".join(_verbs(one)), one.repository, *licenses)
    return table


def _sizes(family):
    from rich.table import Table

    table = Table(title=f"{family.title}: {family.paper}", title_justify="left")
    table.add_column("released checkpoint", overflow="fold")
    table.add_column("what it is", overflow="fold")
    for name, what in family.sizes.items():
        table.add_row(name, what)
    if family.weights_license_note:
        table.caption, table.caption_justify = family.weights_license_note, "left"
    return table
