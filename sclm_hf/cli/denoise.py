"""`sclm-hf denoise INPUT OUTPUT --model DIR`."""

from typing import Any

from .file_verb import file_verb
from .pictures import Picture, draw_scores

_DRAW = draw_scores(
    {"correlation": "correlation: high is good", "error": "error: low is good"},
    first="model",
    xlabel="held-out reads, error as a multiple of the gene mean's; dotted: the model",
)


@file_verb(picture=Picture("the scores on held-out reads, beside simple methods", _DRAW, needs="score"))
def denoise(record: dict[str, Any], column: Any) -> None:
    """Add a layer of denoised expression to a copy of an .h5ad file, or of each in a folder."""
    print(f"Denoised {int(record['n_denoised']):,} genes.")
    scores = record.get("scores", {})
    for name, score in sorted(scores.items(), key=lambda one: one[1]["error"]):
        told, error = score["correlation"], score["error"]
        print(f"{name}: correlation with held-out reads {told:.3f}, error {error:.3f} of the gene mean's")
    if nearer := [name for name in scores if scores[name]["error"] < scores["model"]["error"]]:
        print(f"Nearer to held-out reads than the model: {', '.join(nearer)}.")
