"""What a language model that labels cells is refused with."""

import pytest

from sclm_hf.errors import ConfigurationError
from sclm_hf.text.annotator import TextAnnotator, TextProcessor
from sclm_hf.text.cell_words import sentence_processor
from sclm_hf.text.closed_set import Candidates

from .small import GENES, LABELS, make_language_model


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("{sentence.__class__}", "expected a plain name"),
        ("{sentence}, or {", "a brace that stands alone"),
        ("What is it?", "shows no cell: `prompt` must hold {sentence}"),
    ],
)
def test_a_question_shows_the_cell_and_reaches_into_nothing(prompt, message):
    model, tokenizer = make_language_model()
    candidates = Candidates(labels=LABELS, prompt=prompt)
    with pytest.raises(ConfigurationError, match=message):
        TextAnnotator(model, TextProcessor(tokenizer, sentence_processor(GENES, 8), candidates))


@pytest.mark.parametrize("changes", [{"labels": ["", "B"]}, {"labels": ["B"]}, {"organism": 5}, {"temperature": 0}])
def test_candidates_are_checked(changes):
    with pytest.raises(ConfigurationError, match=next(iter(changes))):
        Candidates(**{"labels": LABELS, "prompt": "{sentence}"} | changes)
