"""`sclm-hf multimodal RNA OTHER OUTPUT --model DIR --kind protein`, or without OTHER and with a saved `--head`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..logging import counted
from ..tasks.multimodal import MultimodalSettings
from .options import Json, Model, Overwrite, with_settings
from .pictures import Picture, draw_scores

_DRAW = draw_scores(
    {"pearson": "Pearson: high is good", "rmse": "root mean square: low is good", "gain": "Pearson above pca"},
    first="pca",
    xlabel="mean over features, with 95 % intervals over held-out cells; dotted: pca, without a model",
)
_PICTURE = Picture("the scores of predictors on held-out cells, with 95 % intervals", _DRAW)


@with_settings(MultimodalSettings)
def multimodal(
    rna: Annotated[Path, typer.Argument(help="`.h5ad` file with raw counts of RNA; or `.h5mu` file of both.")],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="[OTHER] OUTPUT",
            help="`.h5ad` file with the other modality of the same cells, left out to apply `--head` and with "
            "`.h5mu`; and the one to write.",
        ),
    ],
    model: Model,
    plot: _PICTURE.option = None,
    as_json: Json = False,
    *,
    overwrite: Overwrite = False,
    **settings: Any,
) -> None:
    """Predict proteins or open chromatin from RNA, beside simple predictors, and join both in one embedding.

    A run of `.h5ad` files that was stopped goes on where it was when it is repeated.
    """
    from ..errors import ConfigurationError
    from ..tasks.files.file_to_file import run_files
    from .results import print_files

    if len(files) > 2:
        raise ConfigurationError(f"Expected RNA, OTHER and OUTPUT, got {1 + len(files)} files.")
    other, output = (None, *files)[-2:]
    if rna.suffix != ".h5mu" and (settings["rna_key"] != MultimodalSettings.rna_key or settings["other_key"]):
        raise ConfigurationError("`--rna-key` and `--other-key` name modalities of an `.h5mu` file: leave them out.")

    def run() -> Any:
        return run_files("multimodal", rna, output, model, overwrite=overwrite, other=other, **settings)

    if plot is not None:
        _check_scored(rna, other, model, settings)
        read = [rna, other, settings["head"]]
        run = _PICTURE.drawn(run, plot, settings, output=output, read=read, overwrite=overwrite)
    print_files(run, _show, as_json=as_json, told=_TOLD)


def _check_scored(rna: Path, other: Path | None, model: str, settings: dict[str, Any]) -> None:
    """Refuse a picture of scores where there are none."""
    from ..errors import ConfigurationError
    from ..opening.specialists import specialist_of

    if other is None and rna.suffix != ".h5mu":
        raise ConfigurationError("`--plot` draws scores, which take the other modality: give OTHER, or leave it out.")
    if (specialist := specialist_of(model, settings["revision"])) is not None:
        raise ConfigurationError(f"{specialist.title} is not scored on held-out cells: leave out `--plot`.")


_READ = {
    "pca": "principal components of RNA",
    "embedding": "the embedding",
    "embedding and pca": "the embedding and principal components of RNA",
}
_TOLD = ("kind", "features", "method", "scores", "per_feature", "neighbour_agreement", "n_seen", "has_manifest")


def _show(record: dict[str, Any], column: Any) -> None:
    method = record["method"]
    if "features" not in record:
        print(f"Joined both modalities with {method}, which predicts no features.")
        return
    n_features = len(record["features"])
    if method not in _READ:
        print(f"Predicted {n_features:,} features with {method}.")
        return
    print(f"Predicted {n_features:,} features, by ridge regression on {_READ[method]}.")
    if "scores" not in record:
        return
    from rich.console import Console
    from rich.table import Table

    scores = record["scores"]
    table = Table(title="Held-out cells, means over features (95 % intervals over cells)", title_justify="left")
    table.add_column("method")
    for name in ("pearson", "rmse", "gain"):
        table.add_column("Pearson above pca" if name == "gain" else name, justify="right")
    for row, method in enumerate(scores["method"]):
        table.add_row(str(method), *(_interval(scores, name, row) for name in ("pearson", "rmse", "gain")))
    Console().print(table)
    print(_verdict(scores, int(record["n_seen"])))
    for name, share in record.get("neighbour_agreement", {}).items():
        print(f"{share:.3f} of the neighbours in the embedding of {name} have the label of a cell.")
    if not record["has_manifest"]:
        print("The model has no training manifest: whether it saw the cells is unknown.")


def _interval(scores: dict[str, Any], name: str, row: int) -> str:
    return f"{scores[name][row]:.3f} ({scores[f'{name}_low'][row]:.3f} to {scores[f'{name}_high'][row]:.3f})"


def _verdict(scores: dict[str, Any], n_seen: int) -> str:
    """In plain words: whether the model is worth it, and whether it saw the cells."""
    row_of = {str(name): row for row, name in enumerate(scores["method"])}
    best = max(("mean", "neighbours", "pca"), key=lambda name: scores["pearson"][row_of[name]])
    own, other = row_of["embedding"], row_of[best]
    # gains are over pca, whose own is 0 in every draw
    if scores["gain_low"][own] > scores["gain_high"][other]:
        verdict = f"The embedding predicts better than the best simple predictor, {best}"
    elif scores["gain_high"][own] < scores["gain_low"][other]:
        verdict = f"The baseline wins: {best} predicts better than the embedding, without a model"
    else:
        verdict = f"The embedding and the best simple predictor, {best}, are not told apart"
    if n_seen:
        have = "stands" if n_seen == 1 else "stand"
        verdict += f"; but {counted(n_seen, 'cell')} {have} in the training manifest of the model, which may favour it"
    return f"{verdict}."
