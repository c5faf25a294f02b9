"""`sclm-hf evaluate INPUT OUTPUT --model DIR --label-key COLUMN`."""

from typing import Any

from .file_verb import file_verb


@file_verb
def evaluate(record: dict[str, Any], labels: Any) -> None:
    """Score predicted labels against those that cells have, for an .h5ad file or each in a folder."""
    from rich.console import Console
    from rich.table import Table

    table, scores = Table(title="Predicted labels", title_justify="left"), record["scores"]
    for name in ("label", "precision", "recall", "F1", "cells"):
        table.add_column(name, justify="left" if name == "label" else "right")
    per_label = record["per_label"]
    for label, *numbers, n_cells in zip(*(per_label[name] for name in _COLUMNS), strict=True):
        table.add_row(str(label), *(f"{number:.3f}" for number in numbers), f"{int(n_cells):,}")
    Console().print(table)
    for name, title in (("accuracy", "accuracy"), ("macro_f1", "macro-F1")):
        score = scores[name]
        print(f"{title} {score['mean']:.3f} (95 % interval over cells {score['low']:.3f} to {score['high']:.3f})")
    told = (
        f"{record['n_seen']:,} of the cells stand in the training manifest of the model, of which "
        f"{record['n_chose']:,} were held out to choose its checkpoint or weights."
    )
    print(
        told if record["has_manifest"] else "The model has no training manifest: whether it saw the cells is unknown."
    )


_COLUMNS = ("label", "precision", "recall", "f1", "n_cells")
