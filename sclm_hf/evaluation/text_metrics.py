"""Scores of what language models say about cells: labels, assignments, generated cells, reconstruction, calibration.

Sources: puzzles as in Cell-o1 ("Training LLMs to solve single-cell reasoning puzzles with reinforcement learning",
2025); neighbours of generated cells as in InstructCell (2025) and ChatCell (2024); expected calibration error as in
Guo et al., "On calibration of modern neural networks", ICML 2017.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from ..corpora.labels.ontology import Ontology, simplified
from ..errors import ConfigurationError, ExpressionError
from ..tokenization.encodings.kernels import kernel


@dataclass(frozen=True)
class LabelScores:
    """Shares of right labels, each more lenient than the one before.

    Attributes:
        exact: share of labels that are the true one, letter by letter.
        synonym: share that mean the same: apart from case, plural and punctuation, or by the ontology.
        ontology: mean of [`Ontology.similarity`]; None without an ontology.
    """

    exact: float
    synonym: float
    ontology: float | None


def label_scores(true: Sequence[str], predicted: Sequence[str], ontology: Ontology | None = None) -> LabelScores:
    """Compare labels with true ones.

    Args:
        true, predicted: (cells,) labels.
        ontology: knows synonyms and distances: [`~sclm_hf.corpora.labels.cell_ontology.cell_ontology`] or one of the
            package.

    Raises:
        ConfigurationError: there are no cells, or not one predicted label for each.
    """
    _check_pairs(true, predicted, "predicted labels")
    pairs = [(str(one), str(other)) for one, other in zip(true, predicted, strict=True)]
    scores = {pair: _scores(*pair, ontology) for pair in set(pairs)}
    exact, synonym, graded = np.mean([scores[pair] for pair in pairs], axis=0).tolist()
    return LabelScores(exact, synonym, None if ontology is None else graded)


def _scores(true: str, predicted: str, ontology: Ontology | None) -> tuple[float, float, float]:
    if ontology is None:
        graded = float(simplified(true) == simplified(predicted))
    else:
        graded = ontology.similarity(true, predicted)
    return float(true == predicted), float(graded == 1), graded


def recall_at_k(true: Sequence[str], found: Sequence[Sequence[str]], k: int) -> float:
    """Share of cells whose label is among those of the first `k` documents that were retrieved for them.

    Args:
        true: (cells,) labels.
        found: (cells,) the labels of the documents, the best first.
        k: how many documents count.

    Raises:
        ConfigurationError: there are no cells, or not one list of documents for each.
    """
    _check_pairs(true, found, "lists of documents")
    return float(np.mean([label in list(labels)[:k] for label, labels in zip(true, found, strict=True)]))


@dataclass(frozen=True)
class AssignmentScores:
    """Scores of puzzles in which each of several cells gets another label.

    Attributes:
        cell_accuracy: mean over puzzles of the share of right cells, 0 for another number of answers than cells.
        batch_accuracy: share of puzzles with all cells right.
        valid: share of puzzles with as many answers as cells.
        unique: share of puzzles whose answers are all different, of those that have answers.
    """

    cell_accuracy: float
    batch_accuracy: float
    valid: float
    unique: float


def assignment_scores(
    true: Sequence[Sequence[str]], answers: Sequence[Sequence[str] | None], *, case: bool = False
) -> AssignmentScores:
    """Score the answers to assignment puzzles.

    Args:
        true: (puzzles,) the labels of each puzzle, in the order of its cells.
        answers: (puzzles,) the labels answered; None where the text could not be read.
        case: whether upper and lower case count as different.

    Raises:
        ConfigurationError: there are no puzzles, or not one answer for each.
    """
    _check_pairs(true, answers, "answers")
    shares, valid, unique = [], [], []
    for labels, answer in zip(true, answers, strict=True):
        labels, answer = (
            [one if case else one.casefold() for one in labels],
            [one if case else one.casefold() for one in answer or ()],
        )
        valid.append(len(answer) == len(labels))
        hits = sum(one == other for one, other in zip(labels, answer, strict=False))
        shares.append(hits / len(labels) if valid[-1] else 0.0)
        if answer:
            unique.append(len(set(answer)) == len(answer))
    right = np.array(shares) == 1
    return AssignmentScores(*(float(np.mean(one)) for one in (shares, right, valid, unique or [False])))


def levenshtein_distances(sentences: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """(sentences, others) int64: how many words must be inserted, deleted or replaced to turn one into the other."""
    codes: dict[str, int] = {}
    distances = np.zeros((len(sentences), len(others)), np.int64)
    _levenshtein(*_coded(sentences, codes), *_coded(others, codes), distances)
    return distances


def _coded(sentences: Sequence[str], codes: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The words of all sentences as numbers, and where each sentence begins and the last ends."""
    listed = [sentence.split() for sentence in sentences]
    words = [codes.setdefault(word, len(codes)) for one in listed for word in one]
    return np.array(words, np.int64), np.cumsum([0, *map(len, listed)])


@kernel
def _levenshtein(ids, ends, other_ids, other_ends, distances):
    row = np.empty(other_ids.size + 1, np.int64)
    for a in range(ends.size - 1):
        for b in range(other_ends.size - 1):
            n = other_ends[b + 1] - other_ends[b]
            for j in range(n + 1):
                row[j] = j
            for i in range(ends[a], ends[a + 1]):
                diagonal, row[0] = row[0], row[0] + 1
                for j in range(n):
                    replaced = diagonal + (ids[i] != other_ids[other_ends[b] + j])
                    diagonal = row[j + 1]
                    row[j + 1] = min(replaced, row[j + 1] + 1, row[j] + 1)
            distances[a, b] = row[n]


def expression_distances(cells: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(cells, others) Euclidean distances of dense (cells, genes) expression."""
    return cdist(np.asarray(cells, np.float64), np.asarray(others, np.float64))


def neighbour_accuracy(
    distances: np.ndarray, labels: Sequence[str], wanted_labels: Sequence[str], k: int = 5
) -> float:
    """Share of generated cells whose label most of their `k` nearest real cells have (pKNN).

    Args:
        distances: (generated, real), from [`expression_distances`] or [`levenshtein_distances`].
        labels: (real,) labels of the real cells. Of labels with as many neighbours the first in sorted order counts.
        wanted_labels: (generated,) the labels that the generated cells should have.
        k: how many neighbours vote.

    Raises:
        ConfigurationError: lengths do not match, or there are fewer than `k` real cells.
    """
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    nearest = _nearest(distances, len(codes), len(wanted_labels), k)
    votes = (codes[nearest][:, :, None] == np.arange(len(names))).sum(axis=1)
    return float((names[votes.argmax(axis=1)] == np.asarray(wanted_labels)).mean())


def neighbour_purity(distances: np.ndarray, labels: Sequence[str], k: int = 5) -> float:
    """Mean share of the `k` nearest other generated cells that have the same label (sKNN).

    Args:
        distances: (generated, generated).
        labels: (generated,) the labels that they should have.
        k: how many neighbours.

    Raises:
        ConfigurationError: lengths do not match, or there are fewer than `k` other cells.
    """
    distances, labels = np.array(distances, np.float64), np.asarray(labels)
    if len(distances) == distances.shape[1]:
        # among copies of a cell, the cell itself need not be the first
        np.fill_diagonal(distances, np.inf)
    nearest = _nearest(distances, len(labels), len(labels), min(k, len(labels)), others=1)
    return float((labels[nearest] == labels[:, None]).mean())


def _nearest(distances: np.ndarray, n_real: int, n_generated: int, k: int, others: int = 0) -> np.ndarray:
    distances = np.asarray(distances)
    if distances.shape != (n_generated, n_real) or not n_generated:
        raise ConfigurationError(
            f"Distances of {n_generated} generated to {n_real} labelled cells expected, got the shape "
            f"{distances.shape}."
        )
    if not 1 <= k <= n_real - others:
        raise ConfigurationError(f"`k` must be between 1 and {n_real - others}, the number of other cells, got {k}.")
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


@dataclass(frozen=True)
class GeneScores:
    """What generated sentences consist of.

    Attributes:
        valid: share of words that are genes.
        unique: share of words that did not occur before in their sentence.
        n_genes: mean number of different genes per sentence.
    """

    valid: float
    unique: float
    n_genes: float


def gene_scores(sentences: Sequence[str], words: Sequence[str]) -> GeneScores:
    """Shares of valid and of unique genes of generated sentences, over the words of all; 0 where there are none.

    Args:
        sentences: generated text, split at white space.
        words: the genes there are, as [`~sclm_hf.text.sentences.gene_words`] writes them.
    """
    known, listed = set(words), [sentence.split() for sentence in sentences]
    total = max(sum(map(len, listed)), 1)
    different = [set(one) for one in listed]
    valid = sum(word in known for one in listed for word in one) / total
    genes = [len(one & known) for one in different]
    return GeneScores(valid, sum(map(len, different)) / total, float(np.mean(genes or [0])))


@dataclass(frozen=True)
class ReconstructionScores:
    """How well expression is told by what was reconstructed: coefficient of determination and correlations."""

    r_squared: float
    pearson_r: float
    spearman_r: float


def reconstruction_scores(true: np.ndarray, reconstructed: np.ndarray) -> ReconstructionScores:
    """Compare expression values with reconstructed ones, all taken together.

    Args:
        true, reconstructed: dense arrays of one shape, for example the values of the expressed genes.

    Raises:
        ExpressionError: shapes differ, or fewer than two different true values.
    """
    from scipy.stats import pearsonr, spearmanr

    true, reconstructed = np.asarray(true, np.float64), np.asarray(reconstructed, np.float64)
    if true.shape != reconstructed.shape or np.unique(true).size < 2:
        raise ExpressionError(
            f"Values of one shape are needed, at least two of them different, got {true.shape} and "
            f"{reconstructed.shape}."
        )
    true, reconstructed = true.ravel(), reconstructed.ravel()
    r_squared = 1 - ((true - reconstructed) ** 2).sum() / ((true - true.mean()) ** 2).sum()
    correlations = (float(test(true, reconstructed).statistic) for test in (pearsonr, spearmanr))
    return ReconstructionScores(float(r_squared), *correlations)


@dataclass(frozen=True)
class CalibrationScores:
    """Whether probabilities are what they say.

    Attributes:
        ece: expected calibration error: mean distance of confidence and accuracy over bins of confidence.
        brier: mean over cells of the squared distance of the probabilities from those of the truth, between 0 and 2.
    """

    ece: float
    brier: float


def calibration_scores(probabilities: np.ndarray, true: Sequence[int], *, n_bins: int = 15) -> CalibrationScores:
    """Expected calibration error and Brier score.

    Args:
        probabilities: (cells, labels), each row adding up to 1.
        true: (cells,) numbers of the true labels.
        n_bins: bins of equal width between 0 and 1; a bin includes its upper end.

    Raises:
        ConfigurationError: shapes do not match, or rows do not add up to 1.
    """
    probabilities, true = np.asarray(probabilities, np.float64), np.asarray(true)
    if probabilities.ndim != 2 or true.shape != probabilities.shape[:1] or not true.size:
        raise ConfigurationError(
            f"One row of probabilities for each true label is needed, got {probabilities.shape} and {true.shape}."
        )
    if true.min() < 0 or true.max() >= probabilities.shape[1] or abs(probabilities.sum(axis=1) - 1).max() > 1e-3:
        raise ConfigurationError("Rows of probabilities must add up to 1, and have a column for each true label.")
    confidence, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    bins = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    gaps = np.bincount(bins, confidence - is_right, n_bins)
    brier = ((probabilities - np.eye(probabilities.shape[1])[true]) ** 2).sum(axis=1).mean()
    return CalibrationScores(float(abs(gaps).sum() / true.size), float(brier))


def _check_pairs(true: Sequence, others: Sequence, what: str) -> None:
    if len(true) != len(others) or not len(true):
        raise ConfigurationError(f"One of the {what} for each of the {len(true)} true ones is needed: {len(others)}.")
