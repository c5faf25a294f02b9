"""`sclm-hf search INPUT OUTPUT --model DIR --queries TEXT`."""

from typing import Any

from .file_verb import file_verb


@file_verb
def search(record: dict[str, Any], column: Any) -> None:
    """Compare the cells of an .h5ad file with texts, and list the cells that each text describes best."""
    for query, cells in zip(record["queries"], record["best_cells"], strict=True):
        print(f"{query}: {', '.join(map(str, cells))}")
