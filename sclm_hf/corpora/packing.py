"""The batches of a window in a few large arrays: quick to allocate, to fill and to hand to another process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Shapes = list[dict[str, tuple[int, ...]]]

Allocate = Callable[[Mapping[str, tuple[type, int]]], dict[str, np.ndarray]]
"""Makes arrays, given name -> (type, entries)."""


class Packed(NamedTuple):
    """Batches of arrays or tensors.

    Attributes:
        flat: name -> (entries,) that of all batches, one after the other.
        shapes: name -> shape, for each batch; {} for a batch without cells.
    """

    flat: dict[str, Any]
    shapes: Shapes


def allocate(sizes: Mapping[str, tuple[type, int]]) -> dict[str, np.ndarray]:
    """New arrays in memory of their own."""
    return {name: np.empty(size, dtype) for name, (dtype, size) in sizes.items()}


def flat_sizes(shapes: Sequence[Mapping[str, tuple[int, ...]]]) -> dict[str, int]:
    """Entries of all batches together, for each name."""
    sizes: dict[str, int] = {}
    for batch in shapes:
        for name, shape in batch.items():
            sizes[name] = sizes.get(name, 0) + int(np.prod(shape))
    return sizes


def unpack(packed: Packed) -> Iterator[dict[str, Any]]:
    """The batches, as views."""
    places = dict.fromkeys(packed.flat, 0)
    for batch in packed.shapes:
        views = {}
        for name, shape in batch.items():
            end = places[name] + int(np.prod(shape))
            views[name] = packed.flat[name][places[name] : end].reshape(shape)
            places[name] = end
        yield views
