"""`sclm-hf card FOLDER`."""

from pathlib import Path
from typing import Annotated

import typer


def card(
    folder: Annotated[Path, typer.Argument(help="Folder of a checkpoint or of dataset shards.")],
    license: Annotated[
        str | None, typer.Option(help="Licence of the checkpoint, for a folder without `card_facts.json`.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Name of the model; otherwise what the facts say.")] = None,
    model: Annotated[str | None, typer.Option(help="Repository id that the card's example loads.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Repository id of the base; an adapter in FOLDER will name it too.")
    ] = None,
) -> None:
    """Render README.md and .eval_results/ from the facts kept in FOLDER/card_facts.json.

    Without that file the card is started from the folder's configuration; edit card_facts.json and run the command
    again to fill it. The card of shards that `sclm-hf corpus build` wrote learns the name of its repository (--model).
    """
    from ..errors import ConfigurationError
    from ..hub.base_model import name_base
    from ..hub.card import FACTS_FILE, CardFacts, start_facts, write_card
    from ..hub.dataset_card import holds_dataset, name_dataset
    from ..hub.emissions import read_emissions

    if holds_dataset(folder):
        if model is None or license or title or base_model:
            raise ConfigurationError(
                f"`{folder}` holds a data set: say what its repository is called (`--model`); title and licence are "
                "settings of `sclm-hf corpus build`."
            )
        typer.echo(f"Wrote {name_dataset(folder, model)}.")
        return
    if base_model is not None:
        name_base(folder, base_model)
    if (folder / FACTS_FILE).exists():
        facts = CardFacts.load(folder / FACTS_FILE)
        facts.energy = read_emissions(folder) or facts.energy
    else:
        facts = start_facts(folder, license=license)
    for name, value in {"title": title, "model": model, "base_model": base_model, "license": license}.items():
        if value is not None:
            setattr(facts, name, value)
    typer.echo(f"Wrote {write_card(facts, folder)}.")
