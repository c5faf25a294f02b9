"""`sclm-hf predict-perturbation INPUT OUTPUT --perturbations GENE,GENE`, with a simple method or `--model DIR`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..tasks.predict_perturbation import PredictPerturbationSettings
from .options import Json, Overwrite, with_settings

MODEL_HELP = (
    "Folder or repository id of a trained model, or of an encoder to train; or the name of a family, for a new one."
)


@with_settings(PredictPerturbationSettings)
def predict_perturbation(
    input: Annotated[Path, typer.Argument(help="`.h5ad` file of a screen, with control cells.")],
    output: Annotated[Path, typer.Argument(help="`.h5ad` file to write: control cells and predicted ones.")],
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
    as_json: Json = False,
    *,
    overwrite: Overwrite = False,
    **settings: Any,
) -> None:
    """Predict cells after perturbations, beside the mean and other simple predictors.

    What is written can be scored by `cell-eval run -ap OUTPUT -ar TRUTH`. A training that was stopped goes on from its
    last checkpoint when the command is repeated.
    """
    from ..tasks.files.file_to_file import run_files
    from .results import print_files

    def run() -> Any:
        return run_files("predict_perturbation", input, output, model, overwrite=overwrite, **settings)

    told = ("method", "by_mean", "n_seen", "n_predicted", "spread", "scores", "cell_eval")
    print_files(run, _show, as_json=as_json, told=told)


def _show(record: dict[str, Any], column: Any) -> None:
    learnt, predicted = int(record["n_seen"]), int(record["n_predicted"])
    print(f"Learnt from {learnt:,} perturbations, predicted {predicted:,} by {record['method']}.")
    if record.get("by_mean"):
        print(f"By the mean of the seen perturbations, for want of features of genes: {record['by_mean']}.")
    if "scores" in record:
        _print_columns(
            f"{int(record['n_scored']):,} predicted perturbations against their real cells", record["scores"]
        )
        print(_verdict(record))
    if record["left_out"]:
        print(f"Left out, for want of features of genes: {record['left_out']}.")
    print(f"Spread of the predictions: {record['spread']:.3f} of that of the seen perturbations.")
    if "cell_eval" in record:
        _print_columns("cell-eval (baseline: the mean of the seen perturbations)", record["cell_eval"])


def _verdict(record: dict[str, Any]) -> str:
    """In plain words: whether the method is worth it, and whether the ceiling is one."""
    scores = dict(zip(record["scores"]["method"], record["scores"]["pearson_delta"], strict=True))
    for name in ("no change", "ceiling"):
        scores.pop(name, None)
    method = record["method"]
    best = max(scores, key=scores.get)
    if scores[best] <= scores[method]:
        verdict = f"By pearson_delta nothing here is better than {method}."
    else:
        verdict = (
            f"By pearson_delta {best} ({scores[best]:.3f}) is better than {method} ({scores[method]:.3f}): use "
            f"`--method {best}`. A choice by this table favours what is chosen; check it on other perturbations."
        )
    return " ".join([verdict, *_passed(record["scores"])])


def _passed(scores: dict[str, Any]) -> list[str]:
    """A sentence that names the best method of each metric by which it is better than the ceiling; or none."""
    names = [str(name) for name in scores["method"]]
    if "ceiling" not in names:
        return []
    passed, ceiling = [], names.index("ceiling")
    for metric, sign in (("pearson_delta", 1), ("mae", -1), ("discrimination", 1)):
        values = scores[metric]
        best = max(range(len(names)), key=lambda row, values=values, sign=sign: sign * values[row])
        if sign * values[best] > sign * values[ceiling]:
            passed.append(f"than {names[best]} does by {metric} ({values[ceiling]:.3f} against {values[best]:.3f})")
    if not passed:
        return []
    return [
        f"Halves of the real cells agree less with one another {', and '.join(passed)}: the ceiling is no bound "
        "there, for too few cells."
    ]


def _print_columns(title: str, columns: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    names = sorted(columns, key=_ORDER.index)
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, justify="left" if name in ("method", "metric") else "right")
    for row in zip(*(columns[name] for name in names), strict=True):
        table.add_row(*(str(one) if isinstance(one, str) else f"{one:.3f}" for one in row))
    Console().print(table)


_ORDER = ["method", "metric", "pearson_delta", "mae", "discrimination", "spread", "baseline", "predicted", "ceiling"]
