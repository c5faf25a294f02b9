"""`sclm-hf evaluate INPUT OUTPUT --model DIR --label-key COLUMN`, `--prediction COLUMN`, or `--embedding KEY`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..logging import counted
from ..tasks.evaluate import EvaluateSettings
from .options import Input, Json, Output, Overwrite, refuse_missing, with_settings
from .pictures import Picture


def _draw(path: Path, key: str) -> Any:
    from ..evaluation.plots import plot_integration
    from ..tasks.files.results import read_record

    record = read_record(path, key)[0]
    if "embedding" in record["scores"]:
        return plot_integration(record["scores"])
    return _confusion(path, key, record["settings"])


def _confusion(path: Path, key: str, settings: dict[str, Any]) -> Any:
    """Labels against predictions, of the cells that were scored; those without a prediction are unassigned."""
    from types import SimpleNamespace

    from ..tasks.annotate import UNASSIGNED
    from ..tasks.evaluate import SEEN
    from ..tasks.files.results import has_column, read_columns
    from ..tasks.scanpy_style.pl import confusion

    label, prediction = settings["label_key"], settings.get("prediction") or key
    left_out = [SEEN] if settings["seen"] == "leave_out" and has_column(path, SEEN) else []
    table = read_columns(path, [label, prediction, *left_out])
    table[prediction] = table[prediction].astype(object).fillna(UNASSIGNED)
    if left_out:
        table = table[~table[SEEN].to_numpy(bool)]
    return confusion(SimpleNamespace(obs=table), label, prediction)


_PICTURE = Picture("which labels are taken for which, or with --embedding the scores", _draw)


@with_settings(EvaluateSettings)
def evaluate(
    input: Input,
    output: Output,
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder or repository id of a checkpoint or an adapter; not with --prediction or --embedding."
        ),
    ] = None,
    plot: _PICTURE.option = None,
    as_json: Json = False,
    *,
    overwrite: Overwrite = False,
    **settings: Any,
) -> None:
    """Score predicted labels against those that cells have, for an .h5ad file or each in a folder.

    With --prediction, score labels that the file holds, such as those of `annotate`; with --embedding, embeddings that
    it holds, for integration, beside principal components and Harmony.
    A run that was stopped goes on where it was when it is repeated.
    """
    refuse_missing(input)
    from ..tasks.files.file_to_file import run_files
    from .results import print_files

    def run() -> Any:
        return run_files("evaluate", input, output, model, overwrite=overwrite, **settings)

    if plot is not None:
        run = _PICTURE.drawn(run, plot, settings, output=output, read=[input], overwrite=overwrite)
    show = _show_labels if settings["embedding"] is None else _show_embeddings
    print_files(run, show, as_json=as_json, told=_TOLD)


_TOLD = (
    *("n_scored", "n_seen", "n_chose", "has_manifest", "unchecked", "n_unassigned", "never_named"),
    *("scores", "per_label", "baselines"),
)


def _show_labels(record: dict[str, Any], labels: Any) -> None:
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
    if "baselines" in record:
        _show_baselines(**record["baselines"])
    if n_unassigned := int(record["n_unassigned"]):
        print(f"{counted(n_unassigned, 'scored cell')} without a predicted label, which count as errors.")
    if len(never := list(record["never_named"])):
        print(f"Labels that no prediction names: {', '.join(map(str, never))}.")
    _show_seen(record)


def _show_baselines(most_frequent: dict[str, Any], logistic_regression: dict[str, Any]) -> None:
    print(f"For comparison, {most_frequent['label']!r} for all cells: {_pair(most_frequent)}.")
    if "left_out" in logistic_regression:
        print(f"Logistic regression is left out: {logistic_regression['left_out'].rstrip('.')}.")
        return
    print(
        f"For comparison, logistic regression on principal components: {_pair(logistic_regression)}, in "
        f"{logistic_regression['n_folds']} folds of {counted(int(logistic_regression['n_cells']), 'scored cell')}. "
        "It was given labels of this very file, which the predictions above need not have been."
    )


def _pair(scores: dict[str, Any]) -> str:
    return f"accuracy {scores['accuracy']:.3f}, macro-F1 {scores['macro_f1']:.3f}"


def _show_seen(record: dict[str, Any]) -> None:
    told = (
        f"{record['n_seen']:,} of the cells stand in the training manifest of the model, of which "
        f"{record['n_chose']:,} were held out to choose its checkpoint or weights."
    )
    if record["has_manifest"] or record["n_seen"]:
        print(told)
    # of labels that were there before, a warning has said it
    if not record["has_manifest"] and "unchecked" not in record:
        print(f"The model has no training manifest{' of its own' if record['n_seen'] else ''}: {_UNKNOWN}")


def _show_embeddings(record: dict[str, Any], column: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    scores = record["scores"]
    table = Table(title=f"Integration, {record['n_scored']:,} cells scored", title_justify="left")
    table.add_column("")
    for name in scores["embedding"]:
        table.add_column(str(name), justify="right")
    for name in (one for one in scores if one != "embedding"):
        if name in ("asw_batch", "biology"):
            table.add_section()
        table.add_row(name.replace("_", " "), *(f"{value:.3f}" for value in scores[name]))
    Console().print(table)
    told = f"{record['n_seen']:,} of the cells were seen in training by a model."
    print(
        told if record["has_manifest"] else f"{told} An embedding names no model with a training manifest: {_UNKNOWN}"
    )


_UNKNOWN = "whether it saw the cells is unknown."
_COLUMNS = ("label", "precision", "recall", "f1", "n_cells")
