"""What the random draws of cells are keyed by."""

import numpy as np

from ..tokenization.encodings.keys import cell_keys, hash_names


def cell_ids(source_name: str, rows: np.ndarray) -> np.ndarray:
    """(cells,) uint64: what the random draws of cells are keyed by. Different rows of a source never share an id."""
    return cell_keys(rows, int(hash_names([source_name])[0]), 0)
