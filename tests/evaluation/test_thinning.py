import numpy as np
import pytest

from sclm_hf.errors import ConfigurationError
from sclm_hf.evaluation.thinning import thin_counts

COUNTS = np.random.default_rng(0).poisson(5.0, size=(200, 50))


def test_a_share_of_the_reads_is_kept():
    thinned = thin_counts(COUNTS, share=0.2).toarray()
    assert (thinned <= COUNTS).all() and (thinned == np.rint(thinned)).all()
    assert thinned.sum() / COUNTS.sum() == pytest.approx(0.2, abs=0.01)
    # binomial: variance n p (1 - p)
    scores = (thinned - 0.2 * COUNTS)[COUNTS > 0] / np.sqrt(COUNTS[COUNTS > 0] * 0.16)
    assert scores.var() == pytest.approx(1, abs=0.05)


def test_cells_are_left_with_a_depth_and_shallow_ones_stay():
    counts = COUNTS.copy()
    counts[0, 1:] = 0
    thinned = thin_counts(counts, depth=50).toarray()
    assert thinned[1:].sum(axis=1).mean() == pytest.approx(50, abs=2)
    assert (thinned[0] == counts[0]).all()


def test_draws_belong_to_the_cell():
    names = [f"cell {number}" for number in range(200)]
    whole = thin_counts(COUNTS, share=0.3, names=names)
    part = thin_counts(COUNTS[150:], share=0.3, names=names[150:])
    assert (whole[150:] != part).nnz == 0
    assert (whole != thin_counts(COUNTS, share=0.3, names=names, seed=1)).nnz > 0


def test_no_cell_is_left_empty():
    assert (thin_counts(COUNTS, share=1e-4).sum(axis=1) > 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({}, "give one of them"), ({"share": 0.0}, "above 0 and at most 1; got 0.0"), ({"depth": -1}, "got -1")],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        thin_counts(COUNTS, **settings)
