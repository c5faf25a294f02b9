"""Cards and pushes of models of cells and text."""

import shutil

import numpy as np
import pytest
from huggingface_hub import ModelCard

from sclm_hf.errors import ConfigurationError
from sclm_hf.hub.card import CardFacts, render_card, start_facts, write_card
from sclm_hf.hub.folder import read_folder
from sclm_hf.opening.loading import load_model
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.text.annotator import TextProcessor
from sclm_hf.text.cell_text_annotator import save_cell_text_annotator
from sclm_hf.text.cell_words import sentence_processor
from sclm_hf.text.closed_set import Candidates
from sclm_hf.text.code_words import CodeWords
from sclm_hf.text.codebook import Codebook
from sclm_hf.text.language_models import small_language_model

from ..dual_encoders import tiny_dual_encoder
from ..modeling.cell_text.tiny import small_cell_text_model, some_cells


@pytest.fixture(scope="module")
def cell_text(tmp_path_factory):
    place = tmp_path_factory.mktemp("cell_text")
    model, processor = small_cell_text_model(place)
    save_cell_text_annotator(place / "saved", model, processor, ["B", "T"], "which type", temperature=1.0)
    return place / "saved", processor


def carded(folder):
    facts = start_facts(folder, license="mit")
    facts.model = "me/it"
    write_card(facts, folder)
    assert CardFacts.load(folder / "card_facts.json") == facts
    return ModelCard.load(folder / "README.md")


def test_a_dual_encoder_is_carded_for_search_and_pushed(tmp_path):
    for part in tiny_dual_encoder(tmp_path):
        part.save_pretrained(tmp_path / "saved")
    card = carded(tmp_path / "saved")
    assert 'sclm_hf.search(cells, "me/it"' in card.text and "| text model | `bert` of transformers |" in card.text
    assert {"cell_text_dual_encoder", "scgpt"} <= set(card.data.tags)
    assert "model.safetensors" in read_folder(tmp_path / "saved", "me/it").files


def test_a_cell_text_model_is_carded_for_annotate_and_for_chat_and_pushed(cell_text):
    card = carded(cell_text[0])
    for shown in (
        'sclm_hf.annotate(cells, "me/it")',
        "apply_chat_template",
        "`llama` of transformers",
        "scGPT",
        "B, T",
    ):
        assert shown in card.text
    files = read_folder(cell_text[0], "me/it").files
    assert {"candidates.json", "cell_processor/processor_config.json"} <= set(files)


def test_the_example_of_a_card_of_a_cell_text_model_runs(cell_text):
    from sclm_hf.registry import COMPOSITES

    ad = pytest.importorskip("anndata")
    made_up = some_cells(cell_text[1], 2)
    cells = ad.AnnData(np.asarray(made_up["cells"]))
    cells.var_names = made_up["gene_names"]
    names = {"cells": cells}
    exec(COMPOSITES["cell_text"].usage.format(model=cell_text[0]), names)
    assert names["answer"].shape[0] == 1


@pytest.fixture
def language_model(tmp_path):
    """Saves a language model that reads cells as text, by an encoder where a family is named."""

    def save(family=None):
        genes, labels = ["CD3D", "MS4A1"], ["B", "T"]
        cells, codes = sentence_processor(genes, 2), None
        model, tokenizer = small_language_model(genes, labels, hidden_size=16, intermediate_size=16)
        if family:
            loaded = load_model(make_tiny_checkpoint(family, tmp_path / "encoder"), "AutoModel", device="cpu")
            embeddings = np.random.default_rng(0).normal(size=(20, loaded.model.config.cell_embedding_size))
            cells = loaded.processor
            codes = CodeWords(loaded.model, cells, Codebook.fit(embeddings.astype("float32"), n_words=2, n_codes=3))
        model.save_pretrained(tmp_path / "saved")
        candidates = Candidates(labels=labels, prompt="which type")
        TextProcessor(tokenizer, cells, candidates, codes).save_pretrained(tmp_path / "saved")
        return tmp_path / "saved"

    return save


def test_a_language_model_that_reads_names_of_genes_is_carded_and_pushed(language_model):
    folder = language_model()
    card = carded(folder)
    for shown in (
        'sclm_hf.annotate(cells, "me/it")',
        "`llama` of transformers",
        "reads cells as names of genes",
        "B, T",
    ):
        assert shown in card.text
    assert "cell encoder" not in card.text and "language_model" in card.data.tags
    for beside in ("base", "projector/checkpoints"):
        (folder / beside).mkdir(parents=True)
        (folder / beside / "optimizer.bin").write_bytes(b"")
    content = read_folder(folder, "me/it")
    assert {"model.safetensors", "candidates.json", "cells/processor_config.json"} <= set(content.files)
    assert len(content.left_out) == 2


def test_the_encoder_of_code_words_may_not_be_hosted_again_either(language_model):
    folder = language_model("scbert")
    assert "code words of embeddings by scBERT" in carded(folder).text
    with pytest.raises(ConfigurationError, match="Weights of scBERT may not be hosted again"):
        read_folder(folder, "me/it")
    assert "cells/model.safetensors" in read_folder(folder, "me/it", force=True).files


def test_a_card_of_two_models_names_both():
    with pytest.raises(ConfigurationError, match="needs `cell_encoder` and `text_model`"):
        CardFacts("Tiny", "cell_text", "mit", "A.")


def test_annotate_without_answers_says_where_they_come_from(cell_text, tmp_path):
    from sclm_hf.tasks.annotate import ANNOTATE

    shutil.copytree(cell_text[0], tmp_path / "bare")
    (tmp_path / "bare" / "candidates.json").unlink()
    with pytest.raises(ConfigurationError, match=r"needs a `candidates.json`.*`sclm-hf finetune --cell_model …`"):
        ANNOTATE.load(tmp_path / "bare", None, ANNOTATE.choose({}))
    facts = start_facts(tmp_path / "bare", license="mit")
    assert facts.task is None and "apply_chat_template" in str(render_card(facts))


def test_a_cell_encoder_whose_weights_may_not_be_hosted_again_is_not_pushed(tmp_path):
    for part in small_cell_text_model(tmp_path, "scbert"):
        part.save_pretrained(tmp_path / "saved")
    carded(tmp_path / "saved")
    with pytest.raises(ConfigurationError, match="Weights of scBERT may not be hosted again"):
        read_folder(tmp_path / "saved", "me/it")
    assert read_folder(tmp_path / "saved", "me/it", force=True).files
