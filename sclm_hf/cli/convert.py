"""`sclm-hf convert FAMILY SOURCE OUTPUT`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Revision

if TYPE_CHECKING:
    from ..modeling.common.conversion import LoadingReport


def convert(
    family: Annotated[
        str, typer.Argument(help="Family of the checkpoint, for example `scgpt`, or task-specific model.")
    ],
    source: Annotated[
        str,
        typer.Argument(
            help="The original release, laid out as `sclm-hf models FAMILY` says: a folder, or a repository on the "
            "Hub (`owner/name`, or `owner/name/folder`)."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="Folder to write; it must be empty or not exist.")],
    revision: Revision = None,
) -> None:
    """Turn an original checkpoint into a Hugging Face folder, and report what became of every tensor.

    `sclm-hf models FAMILY` says where the weights are, and which files are taken.
    """
    import importlib

    from ..errors import ConfigurationError, MissingFileError
    from ..hub.card import facts_of_conversion, write_card
    from ..hub.original_release import find_release
    from ..registry import get_family
    from ..registry.specialists import SPECIALISTS

    known = SPECIALISTS.get(family) or get_family(family)
    if not known.source_layout:
        raise ConfigurationError(
            f"{known.title} has no original checkpoints to convert: fit a model with "
            f"`sclm-hf finetune --model_name_or_path {family}`."
        )

    def add_cards(report: "LoadingReport", folder: Path) -> None:
        facts = facts_of_conversion(release, report)
        for place in report.folders:
            write_card(facts, folder / place)

    try:
        release = find_release(source, revision)
        report = importlib.import_module(known.conversion_module).convert_checkpoint(release, output, add_cards)
    except MissingFileError as error:
        raise MissingFileError(f"{error} `sclm-hf convert {family}` takes {known.source_layout}.") from error
    typer.echo(report.summary())
    written = ", ".join(str(output / place) for place in report.folders)
    typer.echo(f"Wrote {written}, with README.md and the full report in loading_report.json.")
