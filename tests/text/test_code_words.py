import pickle

import anndata
import numpy as np
import pytest
import torch

from sclm_hf import embed
from sclm_hf.corpora.cell_corpus import CellCorpus
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.opening.loading import load_model
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.text.code_words import CodeWords
from sclm_hf.text.codebook import CODEBOOK_FILE, Codebook
from sclm_hf.text.conversations import Conversations
from sclm_hf.text.language_models import add_cell_tokens

from .small import GENES, LABELS, make_cells, make_language_model


@pytest.fixture(scope="module", params=["scgpt", "cellplm"])
def folder(request, tmp_path_factory):
    return make_tiny_checkpoint(request.param, tmp_path_factory.mktemp("cells") / request.param, genes=GENES)


@pytest.fixture(scope="module")
def corpus(folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("file") / "cells.h5ad"
    cells = make_cells(48)
    cells.obs["batch"] = [f"b{cell % 2}" for cell in range(48)]
    cells.write_h5ad(file)
    return CellCorpus(file, load_model(folder, "AutoModel").processor, label_column="cell_type")


@pytest.fixture(scope="module")
def codes(folder, corpus):
    return CodeWords.fit(load_model(folder, "AutoModel", device="cpu").model, corpus, n_words=3, n_codes=4)


def test_words_are_those_of_the_embeddings(folder, corpus, codes):
    cells = anndata.read_h5ad(corpus.sources[0].path)
    embeddings = embed(cells, folder, key_added="X").obsm["X"]
    expected = dict(zip(cells.obs_names, codes.codebook.sentences(codes.codebook.encode(embeddings)), strict=True))
    plain = CellCorpus(corpus.sources[0].path, corpus.processor, label_column="cell_type", shuffle=False)
    written = [sentence for batch in plain.batches(48) for sentence in codes.sentences(batch)]
    assert sorted(written) == sorted(expected.values())


def test_conversations_hold_code_words_in_the_place_of_genes(corpus, codes):
    conversations = Conversations(corpus, "annotate_codes", cells_as=codes)
    rows = list(conversations.to_dataset())
    assert len(rows) == 48
    for row in rows:
        found = [word for word in row["prompt"][0]["content"].split() if word in codes.words]
        assert len(found) == 3 and row["completion"][0]["content"] in LABELS


def test_a_cell_is_asked_for_in_code_words(corpus, codes):
    for row in Conversations(corpus, "generate_codes", cells_as=codes).to_dataset():
        assert codes.codebook.codes_of(row["completion"][0]["content"]) is not None


def test_what_writes_code_words_is_saved_opened_and_sent_to_workers(corpus, codes, tmp_path):
    codes.save_pretrained(tmp_path)
    batch = next(iter(corpus.batches(24)))
    expected = codes.sentences(batch)
    assert CodeWords.load(tmp_path).sentences(batch) == expected
    assert pickle.loads(pickle.dumps(codes)).sentences(batch) == expected
    (tmp_path / CODEBOOK_FILE).unlink()
    with pytest.raises(CheckpointError, match="no codebook"):
        CodeWords.load(tmp_path)


def test_a_codebook_of_another_encoder_is_refused(codes, tmp_path):
    codes.save_pretrained(tmp_path)
    Codebook.fit(np.random.default_rng(0).normal(size=(50, 3)), n_words=2, n_codes=4).save(tmp_path)
    with pytest.raises(CheckpointError, match="embeddings of 3 numbers"):
        CodeWords.load(tmp_path)


def test_each_word_becomes_a_token_that_starts_near_those_of_like_codes(codes):
    model, tokenizer = make_language_model()
    with pytest.raises(ConfigurationError, match="add_cell_tokens"):
        codes.check_tokenizer(tokenizer)
    before = model.get_input_embeddings().weight.detach().clone()
    ids = add_cell_tokens(model, tokenizer, codes.codebook)
    codes.check_tokenizer(tokenizer)
    weights = model.get_input_embeddings().weight.detach()
    assert torch.equal(weights[: len(before)], before) and len(weights) == len(before) + 12
    assert tokenizer(codes.words[5], add_special_tokens=False)["input_ids"] == [ids[5]]
    assert tokenizer.decode([ids[0], ids[5]], skip_special_tokens=True) == " ".join([codes.words[0], codes.words[5]])
    assert add_cell_tokens(model, tokenizer, codes.codebook) == []
    # distances of the first level's embeddings follow those of its centroids
    started, meant = torch.pdist(weights[ids[:4]]), torch.pdist(torch.from_numpy(codes.codebook.centroids[0]))
    assert torch.corrcoef(torch.stack([started, meant]))[0, 1] > 0.5


def test_words_of_later_levels_start_as_near_each_other_as_they_tell_little():
    embeddings = np.random.default_rng(0).normal(size=(400, 8)) * np.array([8, 4, 2, 1, 1, 1, 1, 1])
    codebook = Codebook.fit(embeddings, n_words=4, n_codes=8)
    model, tokenizer = make_language_model(hidden_size=256)
    ids = add_cell_tokens(model, tokenizer, codebook)
    started = model.get_input_embeddings().weight.detach()[ids].reshape(4, 8, -1)
    started = (started - started.mean(dim=1, keepdim=True)).square().sum(dim=(1, 2)).sqrt()
    centroids = torch.from_numpy(codebook.centroids)
    meant = (centroids - centroids.mean(dim=1, keepdim=True)).square().sum(dim=(1, 2)).sqrt()
    torch.testing.assert_close(started / started[0], meant / meant[0], rtol=0.3, atol=0)
