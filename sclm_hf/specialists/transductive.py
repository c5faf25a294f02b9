"""Models that answer for the cells that they were trained on, which they know by name."""

from collections.abc import Sequence
from typing import Any

from ..errors import ConfigurationError


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


def _example(names: Sequence[str]) -> str:
    return f", such as {names[0]!r}" if names else ""
