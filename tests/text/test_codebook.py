import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from sclm_hf.errors import CheckpointError, ConfigurationError, SclmWarning
from sclm_hf.text.codebook import CENTROIDS_FILE, CODEBOOK_FILE, Codebook


@pytest.fixture(scope="module")
def embeddings():
    generator = np.random.default_rng(0)
    groups = generator.normal(size=(5, 12)) * 4
    return (groups[np.arange(300) % 5] + generator.normal(size=(300, 12))).astype(np.float32)


@pytest.fixture(scope="module")
def codebook(embeddings):
    return Codebook.fit(embeddings, n_words=4, n_codes=8)


def test_the_first_word_tells_most_and_each_further_one_some_of_the_rest(codebook, embeddings):
    codes = codebook.encode(embeddings)
    errors = [((embeddings - codebook.decode(codes[:, :n])) ** 2).sum() for n in range(1, 5)]
    variance = ((embeddings - embeddings.mean(axis=0)) ** 2).sum()
    assert errors[0] < 0.3 * variance and errors == sorted(errors, reverse=True)
    assert codebook.error == pytest.approx(errors[-1] / variance, rel=1e-4)


def test_a_seed_gives_the_same_codebook_and_another_one_another(codebook, embeddings):
    again = Codebook.fit(embeddings, n_words=4, n_codes=8)
    np.testing.assert_array_equal(again.centroids, codebook.centroids)
    assert not np.array_equal(Codebook.fit(embeddings, n_words=4, n_codes=8, seed=1).centroids, codebook.centroids)


def test_every_code_stands_for_some_cells_and_usage_says_for_how_many(codebook, embeddings):
    counted = [np.bincount(codes, minlength=8) for codes in codebook.encode(embeddings).T]
    np.testing.assert_array_equal(codebook.usage, counted)
    assert (codebook.usage > 0).all()


def test_a_cell_has_the_same_words_in_any_company(codebook, embeddings):
    alone = np.concatenate([codebook.encode(embeddings[cell : cell + 1]) for cell in range(20)])
    np.testing.assert_array_equal(alone, codebook.encode(embeddings)[:20])


def test_sentences_are_read_back_and_what_is_no_whole_cell_is_not(codebook, embeddings):
    codes = codebook.encode(embeddings[:3])
    sentences = codebook.sentences(codes)
    assert set(sentences[0].split()) < set(codebook.words) and len(codebook.words) == 32
    np.testing.assert_array_equal([codebook.codes_of(one) for one in sentences], codes)
    first, *others = sentences[0].split()
    for broken in ("", " ".join(others), " ".join([*others, first]), f"A cell: {sentences[0]}", f"{first} <cell_1_8>"):
        assert codebook.codes_of(broken) is None


def test_a_codebook_is_saved_and_opened(codebook, embeddings, tmp_path):
    codebook.save(tmp_path)
    opened = Codebook.load(tmp_path)
    np.testing.assert_array_equal(opened.encode(embeddings), codebook.encode(embeddings))
    assert opened.error == codebook.error and (opened.usage == codebook.usage).all()


def test_a_folder_without_a_whole_codebook_is_refused(codebook, tmp_path):
    with pytest.raises(CheckpointError, match="no codebook"):
        Codebook.load(tmp_path)
    codebook.save(tmp_path)
    (tmp_path / CENTROIDS_FILE).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Codebook.load(tmp_path)
    save_file({"centroids": codebook.centroids * np.nan, "usage": codebook.usage}, tmp_path / CENTROIDS_FILE)
    with pytest.raises(CheckpointError, match="finite"):
        Codebook.load(tmp_path)
    (tmp_path / CODEBOOK_FILE).write_text(json.dumps({"format": "another"}))
    with pytest.raises(CheckpointError, match="does not describe"):
        Codebook.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"n_words": 0}, lambda one: one, "n_code_words"),
        ({"n_codes": 1}, lambda one: one, "codebook_size"),
        ({"n_codes": 400}, lambda one: one, "take fewer codes"),
        ({"n_codes": 8}, lambda one: one[np.arange(300) % 4], "only 4 different"),
        ({}, lambda one: np.where(np.arange(300)[:, None] == 7, np.nan, one), "1 of 300 embeddings are NaN"),
        ({}, lambda one: one[0], "shape"),
    ],
)
def test_what_makes_no_codebook_is_refused(embeddings, settings, change, message):
    with pytest.raises(ConfigurationError, match=message):
        Codebook.fit(change(embeddings), **settings)


def test_embeddings_of_another_size_are_refused(codebook):
    with pytest.raises(ConfigurationError, match=r"\(cells, 12\)"):
        codebook.encode(np.zeros((2, 5)))


def test_words_that_stand_for_no_cell_are_said(codebook, embeddings):
    codebook.usage[0, 0], kept = 0, codebook.usage[0, 0]
    with pytest.warns(SclmWarning, match="1 of the 32 words"):
        codebook._report(300)
    codebook.usage[0, 0] = kept
