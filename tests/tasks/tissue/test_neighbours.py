"""Neighbours in tissue, and the weights of their means."""

import anndata
import numpy as np
import pytest

from sclm_hf.errors import ConfigurationError, SclmWarning
from sclm_hf.sources.in_memory import InMemorySource
from sclm_hf.tasks.tissue.neighbours import read_tissue

PLACES = np.array([[0, 0], [1, 0], [3, 0], [0, 0.5], [1, 0.5], [3, 0.5]])


def tissue_of(places, slices=None, n_neighbours=1):
    cells = anndata.AnnData(np.ones((len(places), 2), "float32"), obsm={"spatial": np.asarray(places)})
    if slices is not None:
        cells.obs["slice"] = slices
    return read_tissue(InMemorySource(cells), "spatial", None if slices is None else "slice", n_neighbours)


def test_the_nearest_of_the_same_slice_are_neighbours():
    assert tissue_of(PLACES).neighbours[:, 0].tolist() == [3, 4, 5, 0, 1, 2]
    tissue = tissue_of(PLACES, list("aaabbb"))
    assert tissue.slices == ["a", "b"] and tissue.neighbours[:, 0].tolist() == [1, 0, 1, 4, 3, 4]
    assert tissue.distances[:, 0].tolist() == [1, 1, 2, 1, 1, 2]


def test_near_neighbours_weigh_more_whatever_the_unit():
    weights = tissue_of(PLACES, list("aaabbb"), 2).smoothing().toarray()
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert not weights[:3, 3:].any() and weights[0, 0] > weights[0, 1] > weights[0, 2] > 0
    # distances 1, 3, 1, 2, 2, 3: mean 2
    np.testing.assert_allclose(weights[0, 1] / weights[0, 0], np.exp(-1 / 8))
    np.testing.assert_allclose(tissue_of(PLACES * 1000, list("aaabbb"), 2).smoothing().toarray(), weights)


def test_three_dimensions_count():
    assert tissue_of([[0, 0, 0], [0, 0, 9], [5, 0, 0]]).neighbours[:, 0].tolist() == [2, 0, 0]


def test_coherence_is_the_share_of_neighbours_alike():
    tissue = tissue_of(PLACES, list("aaabbb"))
    assert tissue.coherence(np.zeros(6, int)) == 1
    assert tissue.coherence(np.array([0, 0, 1, 0, 1, 1])) == 0.5
    assert tissue.coherence(np.array([0, 0, -1, -1, 1, 1])) == 1


def test_cells_at_one_place_are_neighbours_but_never_of_themselves():
    with pytest.warns(SclmWarning, match="100% of the cells lie at the very place"):
        tissue = tissue_of([[0, 0]] * 5 + [[1, 1]] * 5, n_neighbours=2)
    assert (tissue.neighbours != np.arange(10)[:, None]).all() and not tissue.distances.any()
    np.testing.assert_allclose(tissue.smoothing().data, 1 / 3)


@pytest.mark.parametrize(
    ("places", "slices", "told"),
    [
        (np.zeros((6, 4)), None, r"two or three numbers per cell.*\(6, 4\)"),
        (np.zeros(6), None, "two or three numbers per cell"),
        (PLACES.astype(str), None, "two or three numbers per cell"),
        (np.where(PLACES == 3, np.nan, PLACES), None, "2 of 6 cells have no finite coordinates"),
        (np.where(PLACES == 3, np.inf, PLACES), list("aabaab"), r"among them all of the slices \['b'\]"),
        (np.ones((6, 2)), None, "The tissue has all 6 cells at the same place"),
        (PLACES, list("aaaaab"), "Slice 'b' has 1 cells, too few for 1 neighbours"),
    ],
)
def test_refused(places, slices, told):
    with pytest.raises(ConfigurationError, match=told):
        tissue_of(places, slices)


def test_a_slice_at_one_place_is_refused():
    places = np.where(np.arange(6)[:, None] > 2, 7.0, PLACES)
    with pytest.raises(ConfigurationError, match="Slice 'b' has all 3 cells at the same place"):
        tissue_of(places, list("aaabbb"))
