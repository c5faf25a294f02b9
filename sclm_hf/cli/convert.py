"""`sclm-hf convert FAMILY SOURCE OUTPUT`."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    family: Annotated[str, typer.Argument(help="Family of the checkpoint, for example `scgpt`.")],
    source: Annotated[Path, typer.Argument(help="The original release, laid out as `sclm-hf models FAMILY` says.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; it must be empty or not exist.")],
) -> None:
    """Turn an original checkpoint into a Hugging Face folder, and report what became of every tensor.

    `sclm-hf models FAMILY` says which files are taken.
    """
    import importlib

    from ..errors import MissingFileError
    from ..files import new_folder, sole_writer
    from ..hub.card import facts_of_conversion, write_card
    from ..registry import get_family

    known = get_family(family)
    with sole_writer(output), new_folder(output) as folder:
        try:
            report = importlib.import_module(known.conversion_module).convert_checkpoint(source, folder)
        except MissingFileError as error:
            raise MissingFileError(f"{error} `sclm-hf convert {family}` takes {known.source_layout}.") from error
        facts = facts_of_conversion(source, report)
        cards = [write_card(facts, folder / place) for place in report.folders]
    typer.echo(report.summary())
    written = ", ".join(str(output / place) for place in report.folders)
    typer.echo(f"Wrote {written}, with {cards[0].name} and the full report in loading_report.json.")
