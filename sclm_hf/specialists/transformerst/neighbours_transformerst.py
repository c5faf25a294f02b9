"""Graphs of spots that lie near one another in tissue."""

from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from sclm_hf.errors import ConfigurationError


def read_coordinates(cells: Any, key: str) -> np.ndarray:
    """(spots, 2 or 3) float64 coordinates.

    Raises:
        ConfigurationError: there are none, or they are not finite or of another shape.
    """
    if key not in cells.obsm:
        raise ConfigurationError(
            f"The spots have no coordinates: `obsm` has no {key!r} (`spatial_key`), it has {sorted(cells.obsm)}."
        )
    coordinates = read_numbers(cells, key)
    if coordinates.ndim != 2 or coordinates.shape[1] not in (2, 3):
        raise ConfigurationError(f"`obsm[{key!r}]` must be (spots, 2 or 3), got {coordinates.shape}.")
    lost = int((~np.isfinite(coordinates).all(axis=1)).sum())
    if lost:
        raise ConfigurationError(f"{lost:,} spots have no finite place in `obsm[{key!r}]`: leave them out.")
    return coordinates


def read_numbers(cells: Any, key: str) -> np.ndarray:
    """What `obsm` has under a name, float64.

    Raises:
        ConfigurationError: it is no table of numbers.
    """
    try:
        return np.asarray(cells.obsm[key], np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"`obsm[{key!r}]` must hold numbers alone: {error}.") from error


def with_colours(coordinates: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(spots, 3) coordinates in the plane and, as the third one, the colour of the image at each spot.

    The channels count by their variance, as in the original (and in SpaGCN: Hu et al., Nature Methods 2021).

    Args:
        coordinates: (spots, 2).
        colours: (spots, channels) mean colour around each spot.

    Raises:
        ConfigurationError: shapes differ, the colour is the same everywhere, or there is a third coordinate.
    """
    if coordinates.shape[1] != 2:
        raise ConfigurationError(
            "The spots have three coordinates, and with `histology_key` the image is the third: give two "
            "(`adata.obsm['spatial'] = adata.obsm['spatial'][:, :2]`), or leave `histology_key` out."
        )
    if colours.ndim != 2 or len(colours) != len(coordinates) or not np.isfinite(colours).all():
        raise ConfigurationError(
            f"The colours of the image must be finite and (spots, channels) of {len(coordinates):,} spots, got "
            f"{colours.shape}."
        )
    variances = colours.var(axis=0)
    if not variances.sum():
        raise ConfigurationError("The colours of the image are the same at all spots: leave `histology_key` out.")
    depth = colours @ variances / variances.sum()
    depth = (depth - depth.mean()) / depth.std()
    return np.column_stack([coordinates, depth * coordinates.std(axis=0).max()])


def nearest_spots(coordinates: np.ndarray, slices: np.ndarray, n_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest spots of each in its slice, nearest first.

    Args:
        coordinates: (spots, dimensions).
        slices: (spots,) the slice of each.
        n_neighbours: how many.

    Returns:
        (spots, n_neighbours) int64 numbers, and their distances.

    Raises:
        ConfigurationError: a slice has too few spots.
    """
    numbers = np.empty((len(coordinates), n_neighbours), np.int64)
    distances = np.empty((len(coordinates), n_neighbours))
    for one in np.unique(slices):
        rows = np.flatnonzero(slices == one)
        if len(rows) <= n_neighbours:
            raise ConfigurationError(
                f"{_called(one)} {len(rows)} spots, which are too few for {n_neighbours} neighbours of each: lower "
                "`n_neighbours`, or leave the slice out."
            )
        found, places = cKDTree(coordinates[rows]).query(coordinates[rows], k=n_neighbours + 1)
        for row, distance, place in zip(rows, found, places, strict=True):
            # itself need not come first among spots at the same place
            others = np.flatnonzero(rows[place] != row)[:n_neighbours]
            numbers[row], distances[row] = rows[place[others]], distance[others]
    return numbers, distances


def _called(one: Any) -> str:
    return f"Slice {one!r} has" if str(one) else "There are"


def edges_between(numbers: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(2, edges) int64 edges from each spot to its neighbours and back, each once, in ascending order.

    Args:
        numbers: (spots, n_neighbours) neighbours.
        kept: of the same shape, which of them count.
    """
    spots = np.repeat(np.arange(len(numbers)), numbers.shape[1])[kept.ravel()]
    near = numbers.ravel()[kept.ravel()]
    both = np.concatenate([np.stack([spots, near]), np.stack([near, spots])], axis=1)
    return np.unique(both, axis=1)


def interpolate(values: np.ndarray, coordinates: np.ndarray, points: np.ndarray, n_nearest: int = 5) -> np.ndarray:
    """(points, genes) values at points between spots: means over the nearest ones, which weigh more when nearer.

    Args:
        values: (spots, genes).
        coordinates: (spots, dimensions).
        points: (points, dimensions).
        n_nearest: how many spots.
    """
    distances, places = cKDTree(coordinates).query(points, k=min(n_nearest, len(coordinates)))
    distances, places = (np.asarray(one).reshape(len(points), -1) for one in (distances, places))
    weights = (distances + 0.1) / (distances.min(axis=1, keepdims=True) + 0.1)
    weights = 1 / weights**2
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("pn,png->pg", weights, values[places])
