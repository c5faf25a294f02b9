"""What nearest cells tell of batches and labels."""

import numpy as np
import pytest

from sclm_hf.evaluation.integration.neighbours import (
    Nearby,
    batch_mixing,
    label_purity,
    mean_share,
    nearest,
    standard_error,
)

LABELS, BATCHES = np.repeat([0, 1], 40), np.resize([0, 1], 80)


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def test_the_nearest_cells_are_those_that_scikit_learn_finds(generator):
    from sklearn.neighbors import NearestNeighbors

    embedding = generator.normal(size=(700, 5))
    expected = NearestNeighbors(n_neighbors=7).fit(embedding).kneighbors(return_distance=False)
    np.testing.assert_array_equal(nearest(embedding, 7), expected)


def test_labels_that_lie_apart_are_pure_and_batches_by_chance_are_mixed(generator):
    embedding = np.c_[LABELS * 10, np.zeros(80)] + generator.normal(size=(80, 2))
    assert label_purity(embedding, LABELS) == label_purity(embedding, LABELS, within=BATCHES) == 1
    assert batch_mixing(embedding, BATCHES, LABELS) > 0.9 < batch_mixing(embedding, BATCHES)


def test_batches_that_lie_apart_are_not_mixed_though_labels_are_pure_within_each(generator):
    # the labels change places from one batch to the other
    embedding = np.c_[BATCHES * 100, (LABELS ^ BATCHES) * 10] + generator.normal(size=(80, 2))
    assert batch_mixing(embedding, BATCHES) == batch_mixing(embedding, BATCHES, LABELS) == 0
    assert label_purity(embedding, LABELS, within=BATCHES) == 1


def test_what_cannot_be_told_is_nan_and_cells_without_a_label_are_left_out(generator):
    embedding = generator.normal(size=(80, 2))
    assert np.isnan(label_purity(embedding, np.zeros(80, int)))
    assert np.isnan(batch_mixing(embedding, LABELS, LABELS))
    hidden = np.where(np.arange(80) % 4 == 0, -1, LABELS)
    assert label_purity(embedding, hidden) == label_purity(embedding[hidden >= 0], LABELS[hidden >= 0])


def test_the_standard_error_is_how_far_means_over_other_cells_lie_apart(generator):
    # each cell has a share of its own, so that its neighbours are no draws of one share
    def draw():
        shares = [generator.beta(2, 2, size=(size, 1)) for size in (40, 90)]
        return [Nearby(generator.random((len(one), 10)) < one, 0.9) for one in shares]

    draws = [draw() for _ in range(400)]
    apart = np.std([mean_share(groups) for groups in draws])
    assert np.mean([standard_error(groups) for groups in draws]) == pytest.approx(apart, rel=0.15)
    assert np.isnan(standard_error([]))
