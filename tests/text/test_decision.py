import jinja2
import pytest
import torch
from transformers import pipeline

from sclm_hf.text.annotator import TextAnnotator, TextProcessor
from sclm_hf.text.cell_words import sentence_processor
from sclm_hf.text.closed_set import Candidates
from sclm_hf.text.decision import save_decision
from sclm_hf.text.templates import load_templates

from .small import GENES, LABELS, make_cells, make_language_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text model in whose prompt jinja must make nothing of braces and quotes."""
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = make_language_model()
    prompt = 'Is it {{{{"\\"}}}} or ü?\n' + load_templates("annotate").train[4].prompt
    candidates = Candidates(labels=LABELS, prompt=prompt, system="Be {% brief %}.", temperature=0.5)
    model.save_pretrained(folder)
    TextProcessor(tokenizer, sentence_processor(GENES, 8), candidates).save_pretrained(folder)
    return folder


def asked(sentence, labels=LABELS):
    return {"state": sentence, "questions": {"type": {"type": "choice", "criteria": dict.fromkeys(labels)}}}


def test_the_pipeline_gives_the_probabilities_of_annotate(folder):
    from sclm_hf.text.annotator import load_text_annotator

    annotator = load_text_annotator(str(folder), device="cpu").model
    assert isinstance(annotator, TextAnnotator)
    cells = make_cells(6)
    batch = annotator.processor.cells(cells, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = annotator(**inputs).logits.softmax(dim=-1)
    decide = pipeline("decision", model=str(folder), device="cpu")
    for sentence, row in zip(annotator._words.sentences(inputs), expected, strict=True):
        answer = decide(asked(sentence))["type"]
        found = torch.tensor([answer["probabilities"][label] for label in LABELS])
        torch.testing.assert_close(found, row, atol=1e-5, rtol=0)
        assert answer["choice"] == LABELS[int(row.argmax())]


def test_labels_in_another_order_are_refused(folder):
    decide = pipeline("decision", model=str(folder), device="cpu")
    with pytest.raises(jinja2.TemplateError, match="in their order"):
        decide(asked("GENE1 GENE2", LABELS[::-1]))


def test_labels_of_several_tokens_and_models_without_a_chat_template_have_no_decision(tmp_path):
    _, tokenizer = make_language_model()
    candidates = Candidates(labels=["GENE1 GENE2", "GENE3"], prompt="{sentence}")
    assert not save_decision(tmp_path, tokenizer, candidates)
    tokenizer.chat_template = None
    assert not save_decision(tmp_path, tokenizer, Candidates(labels=LABELS, prompt="{sentence}"))
    assert not list(tmp_path.iterdir())
