"""`sclm-hf skill`."""

from pathlib import Path
from typing import Annotated

import typer


def skill(
    output: Annotated[
        Path | None,
        typer.Argument(help="Folder to write SKILL.md to, such as `skills/sclm-hf`; printed unless given."),
    ] = None,
) -> None:
    """Give the instructions by which an agent uses this command (SKILL.md)."""
    from ..cards import TEMPLATES
    from ..files import write_text

    text = (TEMPLATES / "SKILL.md").read_text(encoding="utf-8")
    if output is None:
        typer.echo(text, nl=False)
        return
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "SKILL.md", text)
    typer.echo(f"Wrote {output / 'SKILL.md'}.")
