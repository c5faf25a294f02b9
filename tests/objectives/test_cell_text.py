"""Questions about cells: the loss is on the answers, and what is asked about a cell depends on the cell alone."""

import numpy as np
import pytest
import torch

from sclm_hf.errors import ConfigurationError, CorpusError
from sclm_hf.objectives.cell_text import CellTextCollator

from ..modeling.cell_text.tiny import small_cell_text_model, some_cells

QUESTIONS, ANSWERS = ("which type", "is this one"), ("B", "T cell")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return small_cell_text_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def batch(found):
    cells = dict(found[1].cell_processor(**some_cells(found[1], 4)))
    return cells | {"cell_ids": np.arange(4), "labels": np.array([0, 1, -100, 1])}


@pytest.fixture
def collator(found):
    return CellTextCollator.from_processor(found[1], QUESTIONS, ANSWERS, seed=3)


def test_the_loss_is_on_the_answer_and_its_end(found, batch, collator):
    model, processor = found
    inputs = collator(batch)
    said = [row[row != -100] for row in inputs["labels"]]
    assert processor.tokenizer.batch_decode(said) == ["B </s>", "T cell </s>", "", "T cell </s>"]
    assert torch.isfinite(model(**inputs).loss)


def test_a_cell_is_asked_the_same_in_any_batch_and_another_question_in_time(batch, collator):
    whole = collator(batch, 0)["input_ids"]
    alone = collator({name: values[1:2] for name, values in batch.items()}, 0)["input_ids"]
    assert torch.equal(alone[0], whole[1][: alone.shape[1]])
    later = [collator(batch, epoch)["input_ids"][0, 3].item() for epoch in range(8)]
    assert len(set(later)) == len(QUESTIONS)


def test_labels_without_an_answer_are_refused(batch, collator):
    with pytest.raises(CorpusError, match="2 classes"):
        collator(batch | {"labels": np.array([0, 1, 2, 0])})


@pytest.mark.parametrize(
    ("questions", "answers", "told"),
    [((), ANSWERS, "Give `questions`"), (QUESTIONS, ("",), "no token"), (QUESTIONS, ("<cell>",), "stands for a cell")],
)
def test_questions_and_answers_that_are_none_are_refused(found, questions, answers, told):
    with pytest.raises(ConfigurationError, match=told):
        CellTextCollator.from_processor(found[1], questions, answers)
