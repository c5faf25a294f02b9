"""`sclm-hf embed INPUT OUTPUT --model DIR`."""

from typing import Any

from .file_verb import file_verb


@file_verb
def embed(record: dict[str, Any], column: Any) -> None:
    """Add the cells' embeddings, and how they were made, to a copy of an .h5ad file, or of each in a folder."""
    from ..evaluation.collapse import FEWEST_CELLS, Collapse

    collapse = Collapse(**record["collapse"])
    if collapse.n_cells >= FEWEST_CELLS:
        says = " These hardly tell cells apart: was the model trained?" if collapse.is_likely else ""
        print(f"Embeddings: {collapse}.{says}")
