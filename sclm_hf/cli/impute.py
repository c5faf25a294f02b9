"""`sclm-hf impute INPUT OUTPUT --model DIR`."""

from typing import Any

from .file_verb import file_verb


@file_verb
def impute(record: dict[str, Any], column: Any) -> None:
    """Add a layer with the expression that a model expects to a copy of an .h5ad file, or of each in a folder."""
    print(f"Imputed {int(record['n_imputed']):,} genes.")
    for name, score in record.get("scores", {}).items():
        print(f"{name}: correlation with hidden counts {score['pearson']:.3f}, root mean square {score['rmse']:.3f}")
