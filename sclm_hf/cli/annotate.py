"""`sclm-hf annotate INPUT OUTPUT --model DIR`."""

from typing import Any

from .file_verb import file_verb


@file_verb
def annotate(record: dict[str, Any], labels: Any) -> None:
    """Add predicted labels, and how they were made, to a copy of an .h5ad file, or of each in a folder."""
    for label, number in labels.value_counts().sort_values(ascending=False).items():
        print(f"{number:>8,}  {label}")
