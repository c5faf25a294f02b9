import numpy as np
from scipy.stats import binom

from sclm_hf.tokenization.encodings.masks import Draws
from sclm_hf.tokenization.encodings.thinning import HidingSettings, binomial_quantile, expressed_tokens, thin_and_hide

NOTHING_HIDDEN = HidingSettings(10.0, 102.0, 0.0, 0.0, 0.0, 0.0)


def given(*streams):
    """Draws of one cell; those of the streams that are not told are 0.5."""
    draws = np.full((4, 1, len(streams[0])), 0.5)
    draws[: len(streams), 0] = streams
    return Draws(np.zeros(1, np.uint64), draws)


def test_quantiles_of_the_binomial_are_those_of_scipy():
    generator = np.random.default_rng(0)
    for high in (2, 10, 100, 5_000, 100_000):
        n, p, share = generator.integers(1, high, 2000), generator.beta(2, 2, 2000), generator.random(2000)
        ours = [binomial_quantile(*draw) for draw in zip(share, n.astype(float), p, strict=True)]
        np.testing.assert_array_equal(ours, binom.ppf(share, n, p))


def test_quantiles_at_the_ends():
    assert [binomial_quantile(0.0, 5.0, 0.5), binomial_quantile(0.9, 5.0, 0.0)] == [0, 0]
    for n in (5.0, 5_000.0):
        for share in (1e-12, 1 - 1e-12):
            for p in (1e-6, 0.5, 1 - 1e-6):
                assert binomial_quantile(share, n, p) == binom.ppf(share, n, p)


def test_given_draws_say_what_is_kept():
    panel, totals, rates = np.log1p([[8.0, 2.0, 0.0]]), np.array([10.0]), np.array([0.5])
    # the medians of Binomial(8, 1/2), and less than P(X = 0) = 1/4 of Binomial(2, 1/2)
    found = thin_and_hide(panel, totals, rates, given([0.5, 0.1, 0.9]), NOTHING_HIDDEN)
    assert found.totals.tolist() == [4.0]
    np.testing.assert_allclose(np.expm1(found.seen), [[10.0, 0.0, 0.0]], rtol=1e-6)
    nothing_left = thin_and_hide(panel, totals, rates, given([1e-12] * 3), NOTHING_HIDDEN)
    np.testing.assert_array_equal(nothing_left.told, panel.astype(np.float32))


def test_given_draws_say_what_is_hidden():
    settings = HidingSettings(1e4, 102.0, value_ratio=0.3, zero_ratio=0.03, hidden_ratio=0.8, changed_ratio=0.9)
    choosing, hiding = [0.29, 0.29, 0.31, 0.029, 0.04], [0.79, 0.85, 0.0, 0.95, 0.0]
    draws = given([0.5] * 5, choosing, hiding, [0.9] * 5)
    found = thin_and_hide(np.array([[1.0, 2.0, 3.0, 0.0, 0.0]]), np.array([10.0]), np.ones(1), draws, settings)
    assert found.labels.tolist() == [[1.0, 2.0, -100.0, 0.0, -100.0]]
    assert found.seen.tolist() == [[0.0, 3.0, 3.0, 0.0, 0.0]]
    assert found.told.tolist() == [[102.0, 3.0, 3.0, 0.0, 0.0]]


def test_expressed_genes_become_tokens():
    seen = np.array([[0, 5, 6], [0, 0, 7]], np.float32)
    types = np.dtype(np.uint16), np.dtype(np.uint8)
    ids, values, mask = expressed_tokens(seen, np.array([[1.0, 2.0], [3.0, 4.0]]), types, pad_id=9, pad_value=-1.0)
    assert ids.tolist() == [[1, 2, 3, 4], [2, 3, 4, 9]] and (ids.dtype, mask.dtype) == types
    assert values.tolist() == [[5, 6, 1, 2], [7, 3, 4, -1]] and mask.tolist() == [[1] * 4, [1, 1, 1, 0]]
