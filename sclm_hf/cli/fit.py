"""`sclm-hf fit MODEL INPUT OUTPUT`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Seed


def fit(
    specialist: Annotated[
        str, typer.Argument(metavar="MODEL", help="Task-specific model, as `sclm-hf models` lists.")
    ],
    cells: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="`.h5ad` file with raw counts; for a model of several modalities one each, "
            "`rna=FILE atac=FILE`, or one `.h5mu` file.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    label_key: Annotated[str | None, typer.Option(help="Column of obs with the label of each cell.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the cells; as published by default.")] = None,
    seed: Seed = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the processor; may be repeated."),
    ] = None,
    model_config: Annotated[
        list[str] | None,
        typer.Option("--model-config", metavar="NAME=VALUE", help="A setting of the configuration; may be repeated."),
    ] = None,
    training: Annotated[
        list[str] | None,
        typer.Option("--training", metavar="NAME=VALUE", help="A setting of the training; may be repeated."),
    ] = None,
) -> None:
    """Train a task-specific model on cells, as published; the verbs that `sclm-hf models` names then take it."""
    from ..registry.specialists import SPECIALISTS
    from ..tasks.files.h5ad import read_h5ad, read_modalities
    from ..training.specialists import fit as fit_cells

    chosen = _read_settings("--set", settings)
    if label_key is not None:
        chosen["label_key"] = label_key
    changes = _read_settings("--training", training)
    if epochs is not None:
        changes["num_train_epochs"] = epochs
    files = _read_files(cells)
    read: Any = read_modalities(files[""]) if "" in files else {name: read_h5ad(file) for name, file in files.items()}
    result = fit_cells(
        specialist,
        read,
        output,
        model_config=_read_settings("--model-config", model_config),
        training=changes,
        seed=seed,
        **chosen,
    )
    if result.is_main_process:
        typer.echo(result.summary())
        if "evaluate" in SPECIALISTS[specialist].verbs:
            typer.echo(_COMPARE.format(folder=output, column=chosen["label_key"], train=files.get("", "CELLS")))


_COMPARE = """No cells scored it. Before you trust it, score it and what is simple beside it on others with labels:
  sclm-hf evaluate OTHERS scored.h5ad --model {folder} --label-key {column}
  sclm-hf finetune --model_name_or_path linear --train_files {train} --label_column {column} --output_dir simple
  sclm-hf evaluate OTHERS scored.h5ad --model simple --label-key {column} --key simple --overwrite"""


def _read_files(given: list[str]) -> dict[str, str]:
    """Modality -> file; one file without a modality under the empty name."""
    from ..errors import ConfigurationError

    if len(given) == 1 and ("=" not in given[0] or Path(given[0]).exists()):
        return {"": given[0]}
    pairs = [one.partition("=") for one in given]
    if any(not file for _, _, file in pairs) or len({name for name, _, _ in pairs}) < len(pairs):
        raise ConfigurationError(
            f"Name one `.h5ad` file, or one per modality as `rna=FILE atac=FILE`; got {' '.join(given)}."
        )
    return {name: file for name, _, file in pairs}


def _read_settings(flag: str, given: list[str] | None) -> dict[str, Any]:
    """Settings given as NAME=VALUE, the value in JSON where it is some."""
    import json

    from ..errors import ConfigurationError

    chosen = {}
    for one in given or []:
        name, equals, value = one.partition("=")
        if not equals:
            raise ConfigurationError(f"`{flag}` takes NAME=VALUE, got {one!r}.")
        try:
            # as Python writes them, too
            chosen[name] = json.loads(value.lower() if value.lower() in ("true", "false") else value)
        except ValueError:
            chosen[name] = value
    return chosen
