"""Scores of what language models say about cells; recorded numbers are those of InstructCell's own code."""

import json
from dataclasses import astuple

import numpy as np
import pytest

from sclm_hf.corpora.labels.ontology import Ontology
from sclm_hf.errors import ConfigurationError, ExpressionError
from sclm_hf.evaluation.text_metrics import (
    assignment_scores,
    calibration_scores,
    expression_distances,
    gene_scores,
    label_scores,
    levenshtein_distances,
    neighbour_accuracy,
    neighbour_purity,
    recall_at_k,
    reconstruction_scores,
)

from ..tokenization.golden import GOLDEN


@pytest.fixture
def recorded():
    with np.load(GOLDEN / "cell_text" / "knn.npz") as arrays:
        return dict(arrays), json.loads((GOLDEN / "cell_text" / "knn.json").read_text())


@pytest.mark.parametrize("k", [5, 20])
def test_neighbours_of_generated_cells_are_as_recorded(recorded, k):
    cells, wanted = recorded
    labels = cells["generated_labels"]
    to_real = expression_distances(cells["generated"], cells["real"])
    among = expression_distances(cells["generated"], cells["generated"])
    assert neighbour_accuracy(to_real, cells["real_labels"], labels, k) == wanted["pknn"][str(k)]
    assert neighbour_purity(among, labels, k) == pytest.approx(wanted["sknn"][str(k)], abs=1e-15)


def test_levenshtein_counts_words():
    found = levenshtein_distances(["A B C", "", "B"], ["A C", "A B C D", "X Y Z", ""])
    np.testing.assert_array_equal(found, [[1, 1, 3, 3], [2, 4, 3, 0], [2, 3, 3, 1]])
    assert levenshtein_distances([], ["A"]).shape == (0, 1)


def test_neighbours_by_sentences():
    distances = levenshtein_distances(["A B X", "P Q"], ["A B C", "A B D", "P Q R", "P Q S"])
    assert neighbour_accuracy(distances, ["T", "T", "B", "B"], ["T", "T"], k=2) == 0.5


def test_a_copy_of_a_cell_is_its_neighbour():
    among = expression_distances(np.zeros((4, 2)), np.zeros((4, 2)))
    assert neighbour_purity(among, ["a", "a", "b", "b"], k=3) == pytest.approx(1 / 3)


def test_labels_are_compared_by_letter_by_meaning_and_by_distance():
    ontology = Ontology({"lymphocyte": None, "T cell": "lymphocyte", "CD8 T cell": "T cell", "B cell": "lymphocyte"})
    true, predicted = ["T cell", "T cell", "CD8 T cell", "T cell"], ["T cell", "T cells", "B cell", "osteoclast"]
    assert astuple(label_scores(true, predicted, ontology)) == pytest.approx((0.25, 0.5, (1 + 1 + 0.25 + 0) / 4))
    assert astuple(label_scores(true, predicted)) == (0.25, 0.5, None)


def test_recall():
    assert [recall_at_k(["B", "T"], [["T", "B"], ["T"]], k) for k in (1, 2)] == [0.5, 1]


def test_puzzles():
    true = [["B", "T", "NK"]] * 4
    answers = [["b", "T", "NK"], ["T", "B", "NK"], ["T", "T"], None]
    assert astuple(assignment_scores(true, answers)) == pytest.approx((4 / 12, 0.25, 0.5, 2 / 3))
    assert assignment_scores(true[:1], answers[:1], case=True).batch_accuracy == 0


def test_genes_of_generated_sentences():
    assert astuple(gene_scores(["A B A x", "B"], ["A", "B", "C"])) == pytest.approx((4 / 5, 4 / 5, 1.5))
    assert astuple(gene_scores([""], ["A"])) == (0, 0, 0)


def test_reconstruction():
    from sklearn.metrics import r2_score

    true = np.array([[1.0, 2.0], [3.0, 5.0]])
    found = reconstruction_scores(true, true**2)
    assert found.r_squared == pytest.approx(r2_score(true.ravel(), true.ravel() ** 2))
    assert found.pearson_r < 1 == found.spearman_r


def test_calibration():
    sure = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert astuple(calibration_scores(sure, [0, 0, 1, 1])) == (0, 0)
    assert astuple(calibration_scores(sure, [0, 1, 1, 0])) == (0.5, 1)
    assert calibration_scores([[0.6, 0.4], [0.6, 0.4]], [0, 1]).ece == pytest.approx(0.1)


def test_refused():
    with pytest.raises(ConfigurationError, match="between 1 and 1"):
        neighbour_purity(np.zeros((2, 2)), ["a", "b"], k=2)
    with pytest.raises(ConfigurationError, match="2 generated"):
        neighbour_accuracy(np.zeros((2, 3)), ["a"] * 4, ["a"] * 2)
    with pytest.raises(ConfigurationError, match="add up"):
        calibration_scores([[0.5, 0.1]], [0])
    with pytest.raises(ConfigurationError, match="predicted labels"):
        label_scores(["a"], [])
    with pytest.raises(ExpressionError, match="different"):
        reconstruction_scores(np.ones(3), np.ones(3))
