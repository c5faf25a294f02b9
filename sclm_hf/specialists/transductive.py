"""Models that answer for the cells that they were trained on, which they know by name."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from ..errors import ConfigurationError, require


def names_of(cells: Any, title: str) -> list[str]:
    """The names of cells.

    Args:
        cells: an AnnData.
        title: what to call the model in messages.

    Raises:
        ConfigurationError: it is no AnnData, or two cells have the same name.
    """
    if not hasattr(cells, "obs_names"):
        raise ConfigurationError(f"{title} reads an AnnData, got {type(cells).__name__}.")
    names = [str(name) for name in cells.obs_names]
    if len(set(names)) < len(names):
        raise ConfigurationError(
            f"Cells have the same name, and {title} knows them by it: `adata.obs_names_make_unique()`."
        )
    return names


def rows_of(known: Sequence[str], names: Sequence[str], title: str) -> list[int]:
    """The rows at which the cells of training are, in the order of training.

    Args:
        known: names of the cells of training.
        names: names of the cells at hand.
        title: what to call the model in messages.

    Raises:
        ConfigurationError: cells of training are missing, or there are others.
    """
    row_of = {name: row for row, name in enumerate(names)}
    missing = [name for name in known if name not in row_of]
    others = sorted(set(names) - set(known))
    if missing or others:
        raise ConfigurationError(
            f"{title} answers for the {len(known):,} cells that it was trained on, all of them together: "
            f"{len(missing):,} of these are missing{_example(missing)}, and there are {len(others):,} "
            f"others{_example(others)}. Give the cells of training, or train a model on these."
        )
    return [row_of[name] for name in known]


def inputs_of(values: sparse.csr_matrix, n_components: int | None) -> tuple[np.ndarray, np.ndarray]:
    """What describes the rows and the columns of a matrix, both float32: its values, or its components.

    Args:
        values: (rows, columns).
        n_components: None = the values, (rows, columns) and (columns, rows); else (rows, n_components) and
            (columns, n_components), singular vectors times the roots of their singular values.

    Raises:
        ConfigurationError: there are fewer rows or columns than components.
    """
    if n_components is None:
        dense = values.toarray()
        return dense, dense.T.copy()
    if not 0 < n_components < min(values.shape):
        raise ConfigurationError(
            f"`n_components` must be 1 to {min(values.shape) - 1}, below the numbers of cells and of genes or peaks; "
            f"got {n_components}."
        )
    extmath = require("sklearn.utils.extmath", extra="evaluation")
    left, sizes, right = extmath.randomized_svd(values, n_components, random_state=0)
    roots = np.sqrt(sizes)
    return (left * roots).astype(np.float32), (right.T * roots).astype(np.float32)


def _example(names: Sequence[str]) -> str:
    return f", such as {names[0]!r}" if names else ""
