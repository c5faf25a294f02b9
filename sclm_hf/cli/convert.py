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
    from ..hub.card import CardFacts, write_card
    from ..registry import get_family

    known = get_family(family)
    with sole_writer(output), new_folder(output) as folder:
        try:
            report = importlib.import_module(known.conversion_module).convert_checkpoint(source, folder)
        except MissingFileError as error:
            raise MissingFileError(f"{error} `sclm-hf convert {family}` takes {known.source_layout}.") from error
        facts = CardFacts(
            title=f"{known.title} ({source.resolve().name})",
            family=family,
            license=known.weights_license,
            license_name=known.weights_license_name,
            license_link=known.weights_license_link,
            license_note=known.weights_license_note,
            summary=f"An original {known.title} checkpoint of {known.repository}, converted without changing a "
            "number.",
            settings={"converted from": ", ".join(report.source), "tensors dropped": len(report.dropped)},
        )
        cards = [write_card(facts, folder / place) for place in report.folders]
    typer.echo(report.summary())
    written = ", ".join(str(output / place) for place in report.folders)
    typer.echo(f"Wrote {written}, with {cards[0].name} and the full report in loading_report.json.")
