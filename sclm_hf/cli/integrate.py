"""`sclm-hf integrate INPUT OUTPUT --model DIR --batch-key COLUMN`."""

from typing import Any

from .file_verb import file_verb


@file_verb
def integrate(record: dict[str, Any], column: Any) -> None:
    """Add an embedding in which batches mix to a copy of an .h5ad file, or of each in a folder."""
    from rich.console import Console
    from rich.table import Table

    scores = record["scores"]
    table = Table(title="Nearest cells", title_justify="left")
    for name in ("", *(one.replace("_", " ") for one in scores["integrated"])):
        table.add_column(name, justify="right" if name else "left")
    for stage, values in scores.items():
        table.add_row(stage.replace("_", " "), *(f"{value:.3f}" for value in values.values()))
    Console().print(table)
