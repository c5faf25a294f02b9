import numpy as np
import pytest
import scipy.sparse as sp

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.errors import ConfigurationError, ExpressionError
from sclm_hf.tokenization.encodings.depth import depths

SPECIAL = ("<T>", "<S>", "<pad>")
NAMES = [f"GENE{number}" for number in range(20)]


@pytest.fixture(scope="module")
def tokenizer():
    return GeneTokenizer.from_genes({n: i for i, n in enumerate([*NAMES, *SPECIAL])}, special_tokens=SPECIAL)


def processor(tokenizer, **settings):
    return CellProcessor(ExpressionFeatureExtractor.for_family("scfoundation", **settings), tokenizer)


@pytest.fixture(scope="module")
def counts():
    random = np.random.default_rng(1)
    return random.poisson(4.0, (6, 20)) * (random.random((6, 20)) < np.linspace(0.3, 0.9, 6)[:, None])


def encode(tokenizer, counts, **settings):
    return processor(tokenizer, **settings).encode(
        sp.csr_matrix(counts), np.arange(20), cell_ids=np.arange(len(counts))
    )


def test_values_ids_and_depths(tokenizer, counts):
    batch = encode(tokenizer, counts)
    for row, cell in enumerate(counts):
        real = batch["attention_mask"][row] == 1
        expressed = np.flatnonzero(cell)
        assert batch["input_ids"][row, real].tolist() == [*expressed, 20, 21]
        expected = [*np.log1p(cell[expressed] / cell.sum() * 1e4), 4.0, np.log10(cell.sum())]
        np.testing.assert_allclose(batch["expression_values"][row, real], expected, rtol=1e-6)
        assert (batch["input_ids"][row, ~real] == 22).all()
        assert (batch["expression_values"][row, ~real] == 103).all()


@pytest.mark.parametrize(
    ("target_depth", "expected"), [("t3.5", 3.5), ("f2", np.log10(600)), ("a5", np.log10(300) + 5), ("sum", 300.0)]
)
def test_what_may_be_asked_for(target_depth, expected):
    target, source = depths(np.array([300.0]), target_depth)[0]
    assert target == pytest.approx(expected)
    assert source == (300.0 if target_depth == "sum" else pytest.approx(np.log10(300)))


def test_total_counts_known_genes_only_unless_given(tokenizer, counts):
    wide = sp.csr_matrix(np.hstack([counts, np.full((6, 1), 1000)]))
    ids = np.append(np.arange(20), -1)
    how = {"cell_ids": np.arange(6)}
    known = processor(tokenizer).encode(wide, ids, **how)
    np.testing.assert_array_equal(known["expression_values"], encode(tokenizer, counts)["expression_values"])
    totals = np.full(6, 5000.0)
    given = processor(tokenizer).encode(wide, ids, totals=totals, **how)
    ends = given["attention_mask"].sum(1) - 1
    np.testing.assert_allclose(given["expression_values"][np.arange(6), ends], np.log10(5000), rtol=1e-6)
    first = counts[0][np.flatnonzero(counts[0])[0]]
    assert given["expression_values"][0, 0] == pytest.approx(np.log1p(first / 5000 * 1e4), rel=1e-6)


def test_a_cell_does_not_depend_on_its_batch_threads_or_order_of_genes(tokenizer, counts):
    whole = encode(tokenizer, counts)
    made = processor(tokenizer)
    matrix = sp.csr_matrix(counts)
    for threads in (1, 2):
        again = made.encode(matrix, np.arange(20), cell_ids=np.arange(6), num_threads=threads)
        np.testing.assert_array_equal(again["expression_values"], whole["expression_values"])
    order = np.random.default_rng(2).permutation(20)
    moved = made.encode(sp.csr_matrix(counts[:, order]), order, cell_ids=np.arange(6))
    for row in range(6):
        mine = sorted(zip(whole["input_ids"][row], whole["expression_values"][row], strict=True))
        other = sorted(zip(moved["input_ids"][row], moved["expression_values"][row], strict=True))
        np.testing.assert_allclose(mine, other, rtol=1e-6)


def test_a_long_cell_keeps_its_depths(tokenizer, counts):
    batch = encode(tokenizer, counts, max_length=7)
    assert batch["input_ids"].shape == (6, 7)
    full = encode(tokenizer, counts)
    ends = full["attention_mask"].sum(1)
    assert (ends > 7).sum() > 2
    for row in np.flatnonzero(ends >= 7):
        np.testing.assert_array_equal(batch["input_ids"][row, -2:], [20, 21])
        kept = dict(zip(full["input_ids"][row], full["expression_values"][row], strict=True))
        assert all(kept[i] == v for i, v in zip(batch["input_ids"][row], batch["expression_values"][row], strict=True))
        assert batch["expression_values"][row, -1] == full["expression_values"][row, ends[row] - 1]


def test_lengths_agree(tokenizer, counts):
    made, matrix = processor(tokenizer), sp.csr_matrix(counts)
    lengths = made.lengths(matrix, np.arange(20))
    assert lengths.tolist() == encode(tokenizer, counts)["attention_mask"].sum(1).tolist()


def test_cells_too_shallow_for_a_logarithm_are_refused(tokenizer):
    matrix = sp.csr_matrix([[0] * 19 + [1], [3] * 20])
    made = processor(tokenizer)
    assert made.lengths(matrix, np.arange(20)).tolist() == [0, 22]
    with pytest.raises(ExpressionError, match=r"1 of 2 cells have so small a total.*rows 0.*leave them out"):
        made.encode(matrix, np.arange(20), cell_ids=np.arange(2))


def test_settings_that_contradict_the_encoding_are_refused(tokenizer, counts):
    for settings in ({"add_cls": True}, {"include_zero_genes": True}, {"target_depth": "x4"}, {"target_depth": "t"}):
        with pytest.raises(ConfigurationError):
            processor(tokenizer, **settings)
    without = CellProcessor(ExpressionFeatureExtractor.for_family("scfoundation"), GeneTokenizer.from_genes(NAMES))
    with pytest.raises(ConfigurationError, match="`<T>`"):
        without.encode(sp.csr_matrix(counts), np.arange(3, 23), cell_ids=np.arange(6))
