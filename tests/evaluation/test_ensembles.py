"""How much each of several classifiers counts."""

import numpy as np
import pytest

from sclm_hf.evaluation.ensembles import DOUBT, SCALES, choose_weights, simplicity
from sclm_hf.opening.partners import combined


def classifier(labels, *, right, seed, sure=3.0):
    """Log-probabilities of a classifier that is right about a share of the cells."""
    generator = np.random.default_rng(seed)
    said = np.where(generator.random(len(labels)) < right, labels, generator.integers(0, 4, len(labels)))
    scores = generator.normal(scale=0.3, size=(len(labels), 4))
    scores[np.arange(len(labels)), said] += sure
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


@pytest.fixture
def labels():
    return np.arange(200) % 4


def test_a_useless_classifier_gets_no_weight(labels):
    parts = {"good": classifier(labels, right=0.9, seed=1), "chance": classifier(labels, right=0.0, seed=2)}
    assert set(choose_weights(parts, labels)) == {"good"}


def test_one_that_tells_little_is_left_out_even_where_it_helps_by_chance():
    labels = np.arange(40) % 4
    strong, weak = classifier(labels, right=0.9, seed=1), classifier(labels, right=0.2, seed=2)
    missed = strong.argmax(axis=1) != labels
    weak[missed] = classifier(labels, right=1.0, seed=3)[missed]
    assert set(choose_weights({"strong": strong, "weak": weak}, labels)) == {"strong"}
    assert set(choose_weights({"strong": strong, "helps": classifier(labels, right=0.8, seed=7)}, labels)) == {
        "strong",
        "helps",
    }


def test_of_the_same_classifier_twice_the_first_is_taken(labels):
    one = classifier(labels, right=0.8, seed=1)
    assert set(choose_weights({"simple": one, "model": one.copy()}, labels)) == {"simple"}


def test_classifiers_that_err_about_different_cells_are_put_together(labels):
    parts = {str(seed): classifier(labels, right=0.7, seed=seed, sure=2.0) for seed in range(3)}
    weights = choose_weights(parts, labels)
    assert len(weights) > 1
    right = {name: (part.argmax(axis=1) == labels).mean() for name, part in parts.items()}
    assert (combined(parts, weights).argmax(axis=1) == labels).mean() > max(right.values())


@pytest.mark.parametrize("seed", range(5))
def test_the_labels_are_hardly_less_probable_than_with_the_best_alone(seed):
    labels = np.random.default_rng(seed).integers(0, 4, 40)
    parts = {str(i): classifier(labels, right=0.3 + 0.2 * i, seed=10 * seed + i) for i in range(3)}
    together = np.log(combined(parts, choose_weights(parts, labels)))[np.arange(40), labels]
    for part in parts.values():
        alone = part[np.arange(40), labels]
        assert together.mean() >= alone.mean() - DOUBT * (together - alone).std() / np.sqrt(40) - 1e-9


def test_weights_say_how_sure_the_classifiers_may_be(labels):
    sure = {"sure": classifier(labels, right=0.6, seed=1, sure=12.0)}
    assert choose_weights(sure, labels) == {"sure": min(SCALES)}


def test_few_classifiers_without_the_last_and_of_equal_weight_are_simple():
    ordered = [(1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.5, 0.0), (0.25, 0.75, 0.0), (0.5, 0.0, 0.5), (1 / 3,) * 3]
    assert sorted(ordered, key=simplicity) == ordered
