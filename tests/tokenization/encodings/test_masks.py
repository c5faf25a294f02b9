import numpy as np
import pytest

from sclm_hf.tokenization.encodings.keys import Stream, uniforms_for
from sclm_hf.tokenization.encodings.masks import (
    IGNORED,
    Draws,
    choose,
    filled,
    gene_labels,
    genes_of,
    keep,
    smallest,
    split,
    value_labels,
)


def ids_and_draws(n_cells=20, n_genes=300):
    generator = np.random.default_rng(0)
    ids = np.stack([generator.permutation(5000)[:n_genes] for _ in range(n_cells)])
    return ids, Draws.of(np.arange(n_cells), seed=1, epoch=2)


@pytest.mark.parametrize("n_words", [1, 2, 50, 3000])
def test_the_smallest_words(n_words):
    words = np.random.default_rng(n_words).integers(0, 2**64, n_words, np.uint64)
    for n_smallest in {0, n_words // 3, n_words // 2, n_words - 1}:
        assert smallest(words, n_smallest, n_words) == np.sort(words)[n_smallest]
        padded = np.append(words, np.full(100, 2**64 - 1, np.uint64))
        assert smallest(padded, n_smallest, n_words) == np.sort(words)[n_smallest]
    assert smallest(np.full(40, 7, np.uint64), 20, 40) == 7


@pytest.mark.parametrize(("up", "expected"), [(False, 29), (True, 30)])
def test_exact_numbers_are_chosen_among_the_allowed(up, expected):
    ids, draws = ids_and_draws()
    allowed = np.zeros(ids.shape, bool)
    allowed[:, 100:] = True
    chosen = choose(ids, allowed, draws, np.full(20, 0.149), up=up)
    assert (chosen.sum(1) == expected).all() and not chosen[:, :100].any()


def test_of_equal_draws_the_first_are_taken():
    ids = np.full((1, 9), 5)
    chosen = choose(ids, ids > 0, Draws.of(np.arange(1), 0, 0), np.array([0.5]))
    assert chosen.tolist() == [[True] * 4 + [False] * 5]


@pytest.mark.parametrize("ratio", [0.0, 0.001, 0.3, 0.5, 0.97])
def test_those_with_the_smallest_draws_are_chosen(ratio):
    ids, draws = ids_and_draws(20, 1500)
    allowed = ids % 7 > 0
    expected = np.zeros(ids.shape, bool)
    for i in range(len(ids)):
        words = np.where(allowed[i], uniforms_for(draws.keys[i : i + 1], Stream.MASK, ids[i : i + 1])[0], 2)
        expected[i, np.argsort(words, kind="stable")[: int(allowed[i].sum() * ratio)]] = True
    assert (choose(ids, allowed, draws, np.full(20, ratio)) == expected).all()


def test_all_and_none_can_be_chosen():
    ids, draws = ids_and_draws(2, 5)
    allowed = np.array([[True] * 5, [False] * 5])
    assert (choose(ids, allowed, draws, np.array([0.99, 0.99]), up=True) == allowed).all()
    assert not choose(ids, allowed, draws, np.array([0.1, 0.1])).any()


def test_given_draws_are_followed():
    ids, given = np.arange(8).reshape(2, 4), np.array([[[0.3, 1.0, 0.1, 0.2], [0.5, 0.4, 0.9, 0.8]]])
    draws = Draws(np.zeros(2, np.uint64), given)
    chosen = choose(ids, ids >= 0, draws, np.full(2, 0.5))
    assert chosen.tolist() == [[False, False, True, True], [True, True, False, False]]
    kept = keep(ids, ids != 2, draws, Stream.MASK, np.array([0.3, 0.9]))
    assert kept.tolist() == [[False, False, False, True], [True, True, False, True]]


def test_a_fill_that_the_type_does_not_hold_makes_floats():
    values, where = np.array([[1, 2]], np.int16), np.array([[True, False]])
    assert filled(values, where, -3.0).dtype == np.int16
    for fill in (-0.5, 1e6):
        found = filled(values, where, fill)
        assert found.dtype == np.float32 and found.tolist() == [[fill, 2.0]]


def test_labels_are_as_narrow_as_what_is_asked_for():
    asked_for = np.array([[True, False]])
    for kind, expected in ((np.uint16, np.int32), (np.int32, np.int32), (np.int64, np.int64)):
        labels = gene_labels(np.array([[60_000 % 2**15, 1]], kind), asked_for)
        assert labels.dtype == expected and labels.tolist() == [[60_000 % 2**15, IGNORED]]
    for kind, expected in ((np.int16, np.int16), (np.int64, np.float32), (np.float32, np.float32)):
        assert value_labels(np.array([[3, 1]], kind), asked_for).dtype == expected


def test_genes_are_what_is_neither_special_nor_padding():
    ids = np.array([[9, 1, 2, 0, 0]], np.uint16)
    for mask in (np.uint8, np.int64, np.bool_):
        assert genes_of(ids, (ids != 0).astype(mask), (9, 0)).tolist() == [[False, True, True, False, False]]


def test_parts_without_genes_keep_a_column():
    ids, mask = np.array([[4, 0]], np.uint16), np.array([[1, 0]], np.uint8)
    parts = split(ids, np.array([[5, 0]], np.int16), mask, np.zeros((1, 2), bool), pad_id=0, pad_value=-2.0)
    assert parts.generated_ids.tolist() == [[0]] and parts.labels.tolist() == [[IGNORED, IGNORED]]
    assert [part.dtype for part in parts] == [np.uint16, np.int16, np.uint8, np.uint16, np.uint8, np.int16]


def test_a_share_that_comes_to_no_gene_leaves_every_cell_whole():
    ids, draws = ids_and_draws(3, 40)
    mask = np.ones(ids.shape, np.uint8)
    parts = split(ids, ids % 51, mask, choose(ids, ids >= 0, draws, np.full(3, 0.01)), pad_id=0, pad_value=-2.0)
    assert (parts.known_ids == ids).all() and (parts.known_values == ids % 51).all() and parts.known_mask.all()
    assert not parts.generated_ids.any() and not parts.generated_mask.any() and (parts.labels == IGNORED).all()
