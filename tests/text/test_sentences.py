"""Cell sentences against what Cell2Sentence 1.2.0 wrote and read."""

import json

import numpy as np
import pytest
import scipy.sparse

from sclm_hf.errors import ConfigurationError, ExpressionError
from sclm_hf.text.sentences import (
    cell_sentences,
    count_cells,
    expression_from_sentences,
    fit_ranks,
    gene_words,
    log10_normalize,
    parse_sentence,
    rank_pairs,
)
from sclm_hf.tokenization.encodings.keys import Stream, cell_keys, hash_names, uniforms_for

from ..tokenization.golden import GOLDEN, csr


@pytest.fixture(params=["case_a", "case_b"])
def case(request):
    folder = GOLDEN / "cell2sentence"
    with np.load(folder / f"{request.param}.npz") as arrays:
        return dict(arrays), json.loads((folder / f"{request.param}.json").read_text())


def test_vocabulary(case):
    arrays, facts = case
    assert list(count_cells(arrays["counts"], facts["var_names"]).items()) == list(facts["vocabulary"].items())


def test_normalization(case):
    arrays, facts = case
    target_sum = facts["normalize_target_sum"] or "median"
    found = log10_normalize(arrays["counts"], target_sum).toarray()
    np.testing.assert_allclose(found, arrays["normalized_log10"], rtol=0, atol=5e-7)


@pytest.mark.parametrize("form", [np.asarray, csr])
def test_sentences(case, form):
    arrays, facts = case
    for seed, wanted in facts["sentences_by_random_state"].items():
        matrix = form(arrays["normalized_log10"])
        assert cell_sentences(matrix, facts["var_names"], ties="c2s", seed=int(seed)) == wanted


def test_fit(case):
    arrays, facts = case
    expression = arrays["normalized_log10"]
    is_expressed = expression != 0
    ranks, values = arrays["sampled_ranks"][is_expressed], expression[is_expressed]
    # the last bit of a logarithm depends on the processor
    np.testing.assert_allclose(np.sort(np.log10(1 + ranks)), np.sort(arrays["fit_x"]), rtol=1e-15)
    np.testing.assert_array_equal(np.sort(values), np.sort(arrays["fit_y"]))
    fit = fit_ranks(ranks, values)
    recorded = facts["fit"]
    names = {"slope": "slope", "intercept": "intercept", "r_squared": "r_squared"}
    names |= {"pearson_r": "pearson_r_statistic", "spearman_r": "spearman_r_statistic"}
    for ours, theirs in names.items():
        assert getattr(fit, ours) == pytest.approx(recorded[theirs], abs=1e-5), ours


def test_reconstruction(case):
    arrays, facts = case
    sentences = facts["sentences_by_random_state"][str(facts["reconstruct_from_random_state"])]
    line = {name: facts["fit"][name] for name in ("slope", "intercept")}
    found = expression_from_sentences(sentences, list(facts["vocabulary"]), **line)
    np.testing.assert_array_equal(found.toarray(), arrays["reconstruction"])


def test_post_processing(case):
    _, facts = case
    line = {name: facts["fit"][name] for name in ("slope", "intercept")}
    words = list(facts["vocabulary"])
    for wanted in facts["post_process"]:
        parsed, n_unknown = parse_sentence(wanted["input"], words)
        assert (parsed, n_unknown) == (wanted["output"], wanted["n_replaced"])
        found = expression_from_sentences([parsed], words, **line).toarray()[0]
        np.testing.assert_array_equal(found, np.array(wanted["reconstructed"], np.float32))


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    return csr(rng.poisson(0.7, (60, 80)).astype(np.float32)), [f"GENE{i}" for i in range(80)]


def test_ranks_of_own_sentences_fit_as_well(cells):
    expression = log10_normalize(cells[0])
    ranks, values = rank_pairs(expression, cells[1])
    assert len(values) == expression.nnz and np.isin(0, ranks)
    first = slice(0, expression.indptr[1])
    assert (np.diff(values[first]) <= 0).all()
    fit = fit_ranks(ranks, values)
    assert fit.slope < 0 < fit.intercept


def test_hashed_sentences_depend_on_cell_and_gene_alone(cells):
    matrix, names = cells
    ids = np.arange(60) + 1000
    wanted = cell_sentences(matrix, names, cell_ids=ids, seed=3)
    rows, columns = np.random.default_rng(1).permutation(60)[:17], np.random.default_rng(2).permutation(80)
    shuffled = cell_sentences(
        matrix[rows][:, columns], [names[c] for c in columns], cell_ids=ids[rows], seed=3, num_threads=3
    )
    assert shuffled == [wanted[row] for row in rows]
    for options in ({"seed": 4}, {"seed": 3, "epoch": 1}, {"seed": 3, "ties": "stable"}):
        assert cell_sentences(matrix, names, cell_ids=ids, **options) != wanted


def test_sentences_are_sorted_and_complete(cells):
    matrix, names = cells
    column_of = {name: i for i, name in enumerate(names)}
    for row, sentence in zip(matrix.toarray(), cell_sentences(matrix, names), strict=True):
        columns = [column_of[word] for word in sentence.split()]
        assert sorted(columns) == np.flatnonzero(row).tolist()
        assert (np.diff(row[columns]) <= 0).all()


@pytest.mark.parametrize("ties", ["hash", "c2s", "stable"])
def test_short_sentences_begin_as_long_ones(cells, ties):
    matrix, names = cells
    wide = scipy.sparse.hstack([matrix] * 5).tocsr()
    names = [f"{name}-{part}" for part in range(5) for name in names]
    long = cell_sentences(wide, names, ties=ties)
    for n_genes in (1, 5, 100):
        short = cell_sentences(wide, names, ties=ties, n_genes=n_genes, num_threads=2)
        assert short == [" ".join(one.split()[:n_genes]) for one in long]


@pytest.mark.parametrize("ties", ["hash", "stable"])
@pytest.mark.parametrize("n_genes", [None, 1, 60])
def test_counts_are_put_in_the_order_of_other_values(ties, n_genes):
    counts = np.random.default_rng(0).negative_binomial(1, 0.2, (6, 300)).astype(np.float64)
    counts[0, 5], counts[1, 6] = 1023, 1024
    names = [f"GENE{number}" for number in range(300)]
    found, halves = (cell_sentences(one, names, ties=ties, n_genes=n_genes, seed=1) for one in (counts, counts / 2))
    assert found == halves


def test_names_of_any_length_and_alphabet_are_written():
    names = ["α" * 40, "b", "ENSG00000000001.12-long"]
    assert cell_sentences(np.array([[1, 3, 2]]), names, case="keep") == [f"b {names[2]} {names[0]}"]


def test_stable_ties_keep_column_order():
    assert cell_sentences(np.array([[1, 2, 1, 0, 2]]), list("abcde"), ties="stable") == ["B E A C"]


def test_stored_zeros_and_empty_cells():
    matrix = scipy.sparse.csr_matrix(np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 0.0]]))
    matrix.data[0] = 0
    assert cell_sentences(matrix, ["a", "b"], case="keep") == ["b", "a", ""]


def test_last_place_counts_and_unknown_words_keep_theirs():
    found = expression_from_sentences(["A x B A"], ["A", "B", "C"], slope=-1.0, intercept=2.0).toarray()[0]
    np.testing.assert_allclose(found, [2 - np.log10(4), 2 - np.log10(3), 0], rtol=1e-6)
    shifted = expression_from_sentences([["A"]], ["A"], slope=-1.0, intercept=2.0, rank_offset=1)
    assert shifted[0, 0] == pytest.approx(2 - np.log10(2), rel=1e-6)
    assert expression_from_sentences([], ["A"], slope=1.0, intercept=0.0).shape == (0, 1)


@pytest.mark.parametrize(
    ("names", "options", "error", "words"),
    [
        (["cd4", "CD4"], {}, ExpressionError, "case='keep'"),
        (["CD4", "CD4"], {}, ExpressionError, "both written 'CD4'"),
        (["CD4", "a b"], {}, ExpressionError, "white space"),
        (["CD4", ""], {}, ExpressionError, "empty"),
        (["CD4"], {}, ExpressionError, "gene names"),
        (["a", "b"], {"case": "lower"}, ConfigurationError, "'keep'"),
        (["a", "b"], {"ties": "none"}, ConfigurationError, "'stable'"),
        (["a", "b"], {"n_genes": 0}, ConfigurationError, "at least 1"),
        (["a", "b"], {"cell_ids": [1, 2]}, ExpressionError, "cell ids"),
    ],
)
def test_refused(names, options, error, words):
    with pytest.raises(error, match=words):
        cell_sentences(np.array([[1.0, 2.0]]), names, **options)


def test_refused_values():
    with pytest.raises(ExpressionError, match="negative"):
        cell_sentences(np.array([[1.0, -2.0]]), ["a", "b"])
    with pytest.raises(ConfigurationError, match="'median'"):
        log10_normalize(np.ones((1, 2)), "mean")
    with pytest.raises(ExpressionError, match="two different ranks"):
        fit_ranks(np.zeros(3), np.ones(3))
    assert gene_words(["Cd4", "CD4"], case="keep") == ["Cd4", "CD4"]


def test_sentences_of_many_equal_values_are_in_the_order_of_their_draws():
    counts, words = np.ones((3, 700), np.float32), [f"G{number}é" for number in range(700)]
    found = [one.split(" ") for one in cell_sentences(counts, words, case="keep", seed=4)]
    draws = uniforms_for(cell_keys(np.arange(3), 4, 0), Stream.TIES, np.tile(hash_names(words).view(np.int64), (3, 1)))
    assert found == [[words[gene] for gene in np.argsort(row)] for row in draws]
