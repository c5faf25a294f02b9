"""`sclm-hf multimodal RNA OTHER OUTPUT --model DIR --kind protein`, or without OTHER and with a saved `--head`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..tasks.multimodal import MultimodalSettings
from .options import Json, Model, Overwrite, with_settings


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

    print_files(run, _show, as_json=as_json, told=_TOLD)


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
    print(_verdict(scores))
    for name, share in record.get("neighbour_agreement", {}).items():
        print(f"{share:.3f} of the neighbours in the embedding of {name} have the label of a cell.")
    if record["n_seen"]:
        print(f"{int(record['n_seen']):,} of the cells stand in the training manifest of the model.")
    elif not record["has_manifest"]:
        print("The model has no training manifest: whether it saw the cells is unknown.")


def _interval(scores: dict[str, Any], name: str, row: int) -> str:
    return f"{scores[name][row]:.3f} ({scores[f'{name}_low'][row]:.3f} to {scores[f'{name}_high'][row]:.3f})"


def _verdict(scores: dict[str, Any]) -> str:
    """In plain words: whether the model is worth it."""
    pearson = dict(zip(scores["method"], scores["pearson"], strict=True))
    best = max(("mean", "neighbours", "pca"), key=pearson.get)
    if pearson["embedding"] > pearson[best]:
        return f"The embedding predicts better than the best simple predictor, {best}."
    return f"The baseline wins: {best} predicts as well as the embedding or better, without a model."
