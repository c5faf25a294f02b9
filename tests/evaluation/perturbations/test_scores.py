import numpy as np
import pytest

from sclm_hf.evaluation.perturbations.scores import score_shifts, spread

REAL = np.random.default_rng(0).normal(size=(5, 40))


def test_the_truth_gets_the_best_scores():
    scores = score_shifts(REAL, REAL)
    assert scores == pytest.approx((1, 0, 1, 1))


def test_predictions_that_are_all_alike_discriminate_by_chance_and_have_no_spread():
    scores = score_shifts(np.tile(REAL.mean(axis=0), (5, 1)), REAL)
    assert scores.spread == pytest.approx(0) and 0.3 < scores.discrimination < 0.7
    assert score_shifts(np.zeros_like(REAL), REAL).pearson_delta == 0


def test_predictions_of_the_wrong_perturbation_discriminate_worse_than_chance():
    assert score_shifts(np.roll(REAL, 1, axis=0), REAL).discrimination < 0.5
    assert spread(2 * REAL, REAL) == pytest.approx(2)
