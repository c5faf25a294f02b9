"""`sclm-hf integrate INPUT OUTPUT --model DIR --batch-key COLUMN`."""

from typing import Any

from ..tasks.integrate import IntegrateSettings
from .options import Input, Json, Model, Output, Overwrite, with_settings


@with_settings(IntegrateSettings)
def integrate(
    input: Input,
    output: Output,
    model: Model,
    as_json: Json = False,
    *,
    overwrite: Overwrite = False,
    **settings: Any,
) -> None:
    """Add an embedding in which batches mix to a copy of an .h5ad file, or of each in a folder.

    A run that was stopped goes on where it was when it is repeated; its training does so with --output-model.
    """
    from ..tasks.files.file_to_file import run_files
    from .results import print_files

    def run() -> Any:
        return run_files("integrate", input, output, model, overwrite=overwrite, **settings)

    print_files(run, _show, as_json=as_json, told=("batches", "scores", "training", "teaches_labels", "collapse"))


def _show(record: dict[str, Any], column: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    scores, training = record["scores"], record.get("training")
    table = Table(title="Nearest cells", title_justify="left")
    for name in ("", *(one.replace("_", " ") for one in scores["zero_shot"])):
        table.add_column(name, justify="right" if name else "left")
    # a file gives them by the alphabet
    for stage in ("zero_shot", "integrated"):
        table.add_row(stage.replace("_", " "), *(f"{value:.3f}" for value in scores[stage].values()))
    Console().print(table)
    if training is None:
        return
    kept = f"those of step {training['kept_step']}" if training["kept_step"] else "those before training"
    lost = " It was stopped because biology was being lost." if training["biology_lost"] else ""
    print(f"Trained for {training['n_steps']} steps; of the weights, {kept} are kept.{lost}")
