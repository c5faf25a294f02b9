"""`sclm-hf impute INPUT OUTPUT --model DIR`."""

from typing import Any

from .file_verb import file_verb
from .pictures import Picture, draw_scores

_DRAW = draw_scores(
    {"pearson": "correlation: high is good", "rmse": "root mean square: low is good"},
    first="model",
    xlabel="hidden counts, log-normalised; dotted: the model",
)


@file_verb(picture=Picture("the scores of --score, beside simple methods", _DRAW, needs="score"))
def impute(record: dict[str, Any], column: Any) -> None:
    """Add a layer with the expression that a model expects to a copy of an .h5ad file, or of each in a folder."""
    print(f"Imputed {int(record['n_imputed']):,} genes.")
    for name, score in record.get("scores", {}).items():
        print(f"{name}: correlation with hidden counts {score['pearson']:.3f}, root mean square {score['rmse']:.3f}")
