"""Where the cells of tissue slices lie, and which lie next to one another."""

from typing import NamedTuple

import numpy as np
import scipy.sparse
from scipy.spatial import cKDTree

from ...errors import ConfigurationError
from ...logging import warn
from ...sources.categories import number_categories
from ...sources.cell_source import CellSource

_SAMPLE_KEY = "`sample_key` (`--sample-key`)"

_MOST_AT_ONE_PLACE = 0.01
"""A larger share of cells with another one at their very place looks like slices on top of one another."""


class Tissue(NamedTuple):
    """Cells and their nearest neighbours, none of which lies in another slice.

    Attributes:
        slices: names of the slices, sorted.
        numbers: (n_cells,) the slice of each cell.
        neighbours: (n_cells, k) the nearest cells, the nearest first, without the cell itself.
        distances: (n_cells, k) how far they are, in the unit of the coordinates.
    """

    slices: list[str]
    numbers: np.ndarray
    neighbours: np.ndarray
    distances: np.ndarray

    def smoothing(self) -> scipy.sparse.csr_matrix:
        """(n_cells, n_cells) weights of the mean over a cell and its neighbours; rows sum to 1.

        A cell has the weight 1, a neighbour at distance d the weight exp(-d² / 2s²), where s is the mean distance of
        neighbours in the slice, so that the unit of the coordinates does not matter.
        """
        n_cells, k = self.neighbours.shape
        means = np.bincount(self.numbers, self.distances.mean(axis=1)) / np.bincount(self.numbers)
        # all neighbours may lie at the very place of the cell
        scale = np.where(means > 0, means, 1)[self.numbers]
        weights = np.exp(-0.5 * np.square(self.distances / scale[:, None]))
        columns = np.column_stack([np.arange(n_cells), self.neighbours])
        values = np.column_stack([np.ones(n_cells), weights])
        values /= values.sum(axis=1, keepdims=True)
        bounds = np.arange(0, n_cells * (k + 1) + 1, k + 1)
        return scipy.sparse.csr_matrix((values.ravel(), columns.ravel(), bounds), shape=(n_cells, n_cells))

    def coherence(self, codes: np.ndarray) -> float:
        """Share of neighbours that have the number of the cell, over the cells and neighbours that have one.

        Args:
            codes: (n_cells,) numbers, such as those of domains; -1 = none.
        """
        pairs = np.broadcast_to(codes[:, None], self.neighbours.shape), codes[self.neighbours]
        known = (pairs[0] >= 0) & (pairs[1] >= 0)
        return float((pairs[0] == pairs[1])[known].mean()) if known.any() else float("nan")


def read_tissue(
    source: CellSource, spatial_key: str, sample_key: str | None, n_neighbours: int, named: str = "neighbours"
) -> Tissue:
    """Find the neighbours of each cell.

    Args:
        source: the cells.
        spatial_key: name in `obsm` of the coordinates.
        sample_key: column of `obs` that tells slices apart; None = all cells are of one slice.
        n_neighbours: neighbours of each cell.
        named: the setting that says how many.

    Raises:
        ConfigurationError: there are no coordinates, of all cells or of a slice, they cannot be used, or a slice has
            too few cells.
        CorpusError: there is no such column, or a cell has no value in it.

    Warns:
        SclmWarning: many cells lie at the very place of another one.
    """
    coordinates = _coordinates(source, spatial_key)
    slices, numbers = [""], np.zeros(source.n_cells, np.int64)
    if sample_key is not None:
        slices, (codes,) = number_categories(sample_key, [source], [None], None)
        numbers = codes.astype(np.int64)
    where = f'`obsm["{spatial_key}"]`'
    _check_known(coordinates, slices, numbers, where)
    neighbours = np.zeros((len(numbers), n_neighbours), np.int64)
    distances = np.zeros((len(numbers), n_neighbours))
    for number, name in enumerate(slices):
        rows = np.flatnonzero(numbers == number)
        what = f"Slice {name!r}" if sample_key is not None else "The tissue"
        _check_slice(coordinates[rows], what, where, n_neighbours, named)
        found, distances[rows] = _nearest(coordinates[rows], n_neighbours)
        neighbours[rows] = rows[found]
    shared = float((distances[:, 0] == 0).mean())
    if shared > _MOST_AT_ONE_PLACE:
        warn(
            f"{shared:.0%} of the cells lie at the very place of another cell in {where}: if these are several "
            f"slices, name with {_SAMPLE_KEY} the column of `obs` that tells them apart."
        )
    return Tissue(slices, numbers, neighbours, distances)


def _coordinates(source: CellSource, spatial_key: str) -> np.ndarray:
    """(n_cells, 2 or 3) float64."""
    names = source.obsm_names()
    if spatial_key not in names:
        raise ConfigurationError(
            f"`{source.location}` has no coordinates `obsm[{spatial_key!r}]`, it has {names} in `obsm`: name with "
            "`spatial_key` (`--spatial-key`) where the places of the cells are."
        )
    found = source.obsm(spatial_key)
    if found.dtype.kind not in "iuf" or found.ndim != 2 or found.shape[1] not in (2, 3):
        raise ConfigurationError(
            f"`obsm[{spatial_key!r}]` must hold two or three numbers per cell, its places in the tissue; got the "
            f"shape {found.shape} of type {found.dtype}: name others with `spatial_key` (`--spatial-key`)."
        )
    return np.asarray(found, np.float64)


def _check_known(coordinates: np.ndarray, slices: list[str], numbers: np.ndarray, where: str) -> None:
    lacks = ~np.isfinite(coordinates).all(axis=1)
    if not lacks.any():
        return
    without = [name for number, name in enumerate(slices) if name and lacks[numbers == number].all()]
    among = f", among them all of the slices {without[:10]}" if without else ""
    raise ConfigurationError(
        f"{lacks.sum():,} of {len(lacks):,} cells have no finite coordinates in {where}{among}: leave them out, "
        "or give them a place."
    )


def _check_slice(coordinates: np.ndarray, what: str, where: str, n_neighbours: int, named: str) -> None:
    if len(coordinates) <= n_neighbours:
        raise ConfigurationError(
            f"{what} has {len(coordinates):,} cells, too few for {n_neighbours} neighbours of each: lower "
            f"`{named}` (`--{named}`), or leave these cells out."
        )
    if not np.ptp(coordinates, axis=0).any():
        raise ConfigurationError(
            f"{what} has all {len(coordinates):,} cells at the same place in {where}: which are neighbours cannot be "
            "told. Give coordinates, or leave these cells out."
        )


def _nearest(coordinates: np.ndarray, n_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """(cells, k) numbers and distances of the nearest other cells."""
    distances, found = cKDTree(coordinates).query(coordinates, k=n_neighbours + 1)
    is_self = found == np.arange(len(found))[:, None]
    # the cell itself goes last and is cut off; among many at one place it may not have been found
    others = np.argsort(is_self, axis=1, kind="stable")[:, :n_neighbours]
    return np.take_along_axis(found, others, axis=1), np.take_along_axis(distances, others, axis=1)
