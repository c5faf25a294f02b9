"""Two modalities of the same cells, matched by the names of the cells."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigurationError

ALSO_CALLED = {"protein": "prot"}
"""What a MuData may call a modality."""


def paired(cells: Any, modalities: Sequence[str], title: str) -> list[Any]:
    """The AnnData of each modality, its cells in the order of the first.

    Args:
        cells: a MuData, or modality -> AnnData.
        modalities: their names, in order.
        title: what to call the model in messages.

    Raises:
        ConfigurationError: a modality is missing, names of cells are doubled, or modalities have other cells.
    """
    first, *others = modalities
    found = [modality_of(cells, name, modalities, title) for name in modalities]
    names = found[0].obs_names
    for name, one in zip(others, found[1:], strict=True):
        _check_same(names, one.obs_names, first, name)
    return [found[0], *(one if one.obs_names.equals(names) else one[names] for one in found[1:])]


def modality_of(cells: Any, name: str, modalities: Sequence[str], title: str) -> Any:
    """The AnnData of one modality, whose cells have different names; arguments and errors as for [`paired`]."""
    given = getattr(cells, "mod", cells)
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"{title} reads {' and '.join(modalities)} of the same cells: give a MuData, or "
            f"{{{', '.join(f'{one!r}: …' for one in modalities)}}}, got {type(cells).__name__}"
            f"{_on_the_command(modalities)}."
        )
    key = name if name in given else ALSO_CALLED.get(name, name)
    if key not in given:
        raise ConfigurationError(
            f"{title} reads {name!r}, and there is {', '.join(map(repr, given)) or 'nothing'}: give "
            f"{' and '.join(modalities)} of the same cells{_on_the_command(modalities)}."
        )
    if not hasattr(given[key], "obs_names"):
        raise ConfigurationError(f"{name!r} must be an AnnData, got {type(given[key]).__name__}.")
    if not given[key].obs_names.is_unique:
        raise ConfigurationError(
            f"Cells of {name!r} have the same name: modalities are joined by names. Tell the cells apart in both "
            "before."
        )
    return given[key]


def _on_the_command(modalities: Sequence[str]) -> str:
    """How several modalities are named on the command line."""
    first, *others = (name.upper() for name in modalities)
    return (
        f"; on the command line `{' '.join(f'{name}=FILE' for name in modalities)}` or one `.h5mu` file for `fit`, "
        f"and for a verb that file, or a second file: `multimodal {first} {' '.join(others)} OUTPUT`, "
        f"`cluster {first} OUTPUT --other {' '.join(others)}`"
    )


def _check_same(names: Any, other: Any, first: str, second: str) -> None:
    for modality, one in ((first, names), (second, other)):
        if not len(one):
            raise ConfigurationError(f"There are no cells in {modality!r}: was a filter too strict?")
    only_first, only_second = names.difference(other), other.difference(names)
    if len(only_first) == len(names):
        raise ConfigurationError(
            f"{first!r} and {second!r} have no cell in common: names of the first are like {names[0]!r}, of the "
            f"second like {other[0]!r}. Give the same cell the same name in both."
        )
    if len(only_first) or len(only_second):
        example = (only_first if len(only_first) else only_second)[0]
        raise ConfigurationError(
            f"{len(only_first):,} cells of {first!r} and {len(only_second):,} of {second!r} are not in both, such as "
            f"{example!r}: keep the shared ones, `shared = rna.obs_names.intersection(other.obs_names)`."
        )


def centred_log_ratios(counts: np.ndarray) -> np.ndarray:
    """(cells, proteins) logarithms of 1 + counts, minus the mean of the cell: the centred log ratio.

    Each cell is normalised by itself, so that held-out cells tell nothing to others. As Stoeckius et al., Nature
    Methods 14, 865-868 (2017), with a pseudocount.
    """
    logarithms = np.log1p(counts)
    return logarithms - logarithms.mean(axis=1, keepdims=True)
