import numpy as np
import pytest

from sclm_hf.evaluation.collapse import MOST_CELLS, CollapseMeter, measure_collapse


def cells(n_cells=60, size=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n_cells, size)).astype(np.float32)


def test_the_mean_cosine_is_that_of_all_pairs_of_cells():
    vectors = cells(7) + 1
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = (directions @ directions.T)[np.triu_indices(7, 1)]
    assert measure_collapse(vectors).mean_cosine == pytest.approx(pairs.mean(), abs=1e-6)


@pytest.mark.parametrize("shape", [(60, 8), (8, 60)])
def test_the_share_is_that_of_the_first_principal_component(shape):
    vectors = cells(*shape) * np.geomspace(1, 9, shape[1])
    singular = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False)
    assert measure_collapse(vectors).top_variance_share == pytest.approx(singular[0] ** 2 / (singular**2).sum())


def test_the_effective_rank_counts_directions_of_equal_variance():
    axes = np.concatenate([np.eye(8)[:5], -np.eye(8)[:5]])
    assert measure_collapse(axes).effective_rank == pytest.approx(5)
    assert measure_collapse(axes * 10 + 3).effective_rank == pytest.approx(5)
    assert measure_collapse(np.outer(np.arange(60), np.ones(8))).effective_rank == pytest.approx(1)
    assert measure_collapse(np.ones((60, 8))).effective_rank == 1


@pytest.mark.parametrize(
    ("vectors", "likely"),
    [
        (cells(), False),
        (cells() + 30, True),
        (cells() * [30, 1, 1, 1, 1, 1, 1, 1], True),
        (np.ones((60, 8)), True),
        (np.full((60, 8), 0.1, np.float32), True),
        (np.zeros((60, 8)), True),
        (cells(20) + 30, False),
    ],
    ids=["apart", "nearly parallel", "one direction", "equal", "equal up to rounding", "zero", "few"],
)
def test_a_collapsed_model_is_known_by_its_cells(vectors, likely):
    assert measure_collapse(vectors).is_likely == likely


def test_vectors_of_zeros_have_no_direction():
    vectors = cells() + 30
    with_zeros = measure_collapse(np.concatenate([vectors, np.zeros((60, 8))]))
    assert with_zeros.mean_cosine == pytest.approx(measure_collapse(vectors).mean_cosine)
    assert np.isnan(measure_collapse(np.zeros((1, 8))).mean_cosine)


def test_the_names_of_the_cells_choose_which_are_looked_at_and_not_their_order():
    n_cells = MOST_CELLS + 500
    vectors, ids = cells(n_cells), np.random.default_rng(1).permutation(n_cells).astype(np.uint64)
    at_once, in_blocks = CollapseMeter(ids), CollapseMeter(ids[::-1])
    at_once.add(slice(None), vectors)
    for start in range(0, n_cells, 400):
        in_blocks.add(np.arange(start, min(start + 400, n_cells)), vectors[::-1][start : start + 400])
    assert at_once.measure() == in_blocks.measure()
    assert at_once.measure() == measure_collapse(vectors[np.argsort(ids)[:MOST_CELLS]])
