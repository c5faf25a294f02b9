import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.kernel_ridge import KernelRidge

from sclm_hf.errors import ConfigurationError
from sclm_hf.evaluation.perturbations.baselines import PREDICTORS, RidgeShift, fit_predictor
from sclm_hf.evaluation.perturbations.cells import MOST_SCALED, shift_cells
from sclm_hf.evaluation.perturbations.features import GeneFeatures, read_features

GENERATOR = np.random.default_rng(0)
NAMES = tuple("ABCDEFGHIJKL")
FEATURES = GeneFeatures(NAMES, GENERATOR.normal(size=(12, 3)), "a test")
SEEN = [(name,) for name in NAMES[:10]]
SHIFTS = FEATURES.of(SEEN) @ GENERATOR.normal(size=(3, 7)) + 0.5


def test_the_simplest_predict_nothing_or_the_mean():
    assert not fit_predictor("no change", SEEN, SHIFTS).predict([("K",)]).any()
    assert_allclose(fit_predictor("mean", SEEN, SHIFTS).predict([("K",), ("A",)])[1], SHIFTS.mean(axis=0))


def test_additive_adds_seen_singles_and_takes_the_mean_for_others():
    seen, shifts = [*SEEN, ("A", "B")], np.vstack([SHIFTS, np.full((1, 7), 9.0)])
    predicted = fit_predictor("additive", seen, shifts).predict([("A", "C"), ("A", "B"), ("K",)])
    assert_allclose(predicted, [SHIFTS[0] + SHIFTS[2], shifts[-1], SHIFTS.mean(axis=0)])


def test_nearest_takes_the_most_similar_one():
    alike = GeneFeatures((*NAMES, "Z"), np.vstack([FEATURES.vectors, 2 * FEATURES.vectors[3]]), "a test")
    assert_allclose(fit_predictor("nearest", SEEN, SHIFTS, alike).predict([("Z",)])[0], SHIFTS[3])


@pytest.mark.parametrize("name", ["linear", "ridge"])
def test_linear_effects_of_unseen_and_combined_genes_are_found(name):
    wanted = [("K",), ("L",), ("A", "K")]
    real = (
        FEATURES.of(wanted) @ np.linalg.lstsq(np.c_[FEATURES.of(SEEN), np.ones(10)], SHIFTS, rcond=None)[0][:3]
    ) + 0.5
    assert np.abs(fit_predictor(name, SEEN, SHIFTS, FEATURES).predict(wanted) - real).mean() < 0.1


def test_ridge_is_that_of_scikit_learn_and_falls_back_to_the_mean():
    ridge = RidgeShift(FEATURES).fit(SEEN, SHIFTS)
    own, centre = FEATURES.of(SEEN), np.eye(10) - 0.1
    scale = (own**2).sum(axis=1).mean()
    theirs = KernelRidge(kernel="precomputed", alpha=ridge.alpha).fit(centre @ own @ own.T / scale @ centre, SHIFTS)
    assert ridge.kernel == "linear"
    fitted = theirs.predict(centre @ own @ own.T / scale @ centre)
    assert_allclose(ridge.predict(SEEN) - SHIFTS.mean(axis=0), fitted, atol=1e-8)
    noise = np.random.default_rng(1).normal(size=SHIFTS.shape)
    assert_allclose(RidgeShift(FEATURES).fit(SEEN, noise).predict([("K",)])[0], noise.mean(axis=0), atol=0.2)


def test_perturbations_without_features_are_left_out_of_what_is_learnt():
    fitted = fit_predictor("ridge", [*SEEN, ("?",)], np.vstack([SHIFTS, np.full((1, 7), 99.0)]), FEATURES)
    assert_allclose(fitted.predict([("K",)]), fit_predictor("ridge", SEEN, SHIFTS, FEATURES).predict([("K",)]))
    with pytest.raises(ConfigurationError, match=r"`ridge` needs features .* 0 of the 1 .*`--features`"):
        fit_predictor("ridge", [("?",)], SHIFTS[:1], FEATURES)


def test_order_of_what_is_seen_does_not_matter():
    for name in PREDICTORS:
        one = fit_predictor(name, SEEN, SHIFTS, FEATURES).predict([("K",)])
        assert_allclose(fit_predictor(name, SEEN[::-1], SHIFTS[::-1], FEATURES).predict([("K",)]), one, atol=1e-8)


def test_shifted_cells_have_the_mean_that_was_predicted_and_stay_below_15():
    controls = np.random.default_rng(0).poisson(0.7, (50, 6)).astype(np.float32)
    controls[:, 5] = 0
    means = np.array([0.0, 0.1, 0.9, 3.0, -0.5, 0.4])
    cells = shift_cells(controls, means)
    assert_allclose(cells.mean(axis=0), np.maximum(means, 0), atol=1e-6)
    assert (cells[controls[:, 1] == 0, 1] == 0).all()
    assert cells.max() <= controls.max() * MOST_SCALED + 3
    high = shift_cells(controls * (9 / controls.max()), means + 6)
    assert_allclose(high.mean(axis=0), means + 6, rtol=1e-5)
    assert high.max() < 15


@pytest.mark.parametrize(
    ("text", "message"),
    [("g,a\nA,1\nA,2\n", "'A' twice"), ("g,a\nA,x\n", "not all numbers"), ("g,a\nA,\n", "finite numbers")],
)
def test_tables_of_features_that_are_none_are_refused(tmp_path, text, message):
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_features(tmp_path / "f.csv")


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"absent.csv.* cannot be read"):
        read_features(tmp_path / "absent.csv")
