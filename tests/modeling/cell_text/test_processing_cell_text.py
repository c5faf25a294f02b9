"""Prompts with cells: each placeholder gets its own cell, in order, or the call is refused."""

import numpy as np
import pytest
from transformers import AutoProcessor

from sclm_hf import CellTextProcessor
from sclm_hf.errors import ConfigurationError, ExpressionError

from .tiny import small_cell_text_model, small_tokenizer, some_cells

CELL = {"type": "cell"}


def text(words):
    return {"type": "text", "text": words}


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return small_cell_text_model(tmp_path_factory.mktemp("model"))[1]


def test_cells_stand_in_the_rows_of_their_prompts(processor):
    cells = some_cells(processor, 3)
    batch = processor(["<cell> which", "type", "<cell> <cell> is"], **cells)
    alone = processor.cell_processor(**cells)
    assert batch["cell_attention_mask"].any(axis=2).tolist() == [[True, False], [False, False], [True, True]]
    for row, column, cell in ((0, 0, 0), (2, 0, 1), (2, 1, 2)):
        for name in ("input_ids", "expression_values"):
            np.testing.assert_array_equal(batch[f"cell_{name}"][row, column], alone[name][cell])


def test_a_chat_template_knows_cells(processor):
    messages = [{"role": "user", "content": [CELL, text(" which type "), CELL]}]
    assert processor.apply_chat_template(messages) == "<cell> which type <cell>\n"
    batch = processor.apply_chat_template(
        [messages], tokenize=True, add_generation_prompt=True, return_tensors="pt", **some_cells(processor, 2)
    )
    assert (batch["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<cell>")).sum() == 6


@pytest.mark.parametrize(
    ("prompts", "n_cells", "told"),
    [
        (["<cell> <cell>"], 1, "more placeholders than cells.* 2 times, for 1 cells"),
        (["<cell>"], 2, "more cells than placeholders"),
        (["which"], 1, "more cells than placeholders"),
        ([], 0, "no prompts"),
        (["<cell> " * 22], 22, "66 tokens.* reads 64"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(processor, prompts, n_cells, told):
    cells = some_cells(processor, n_cells) if n_cells else {}
    with pytest.raises(ConfigurationError, match=told):
        processor(prompts, **cells)


def test_an_empty_cell_is_refused(processor):
    cells = some_cells(processor, 2)
    cells["cells"][1] = 0
    with pytest.raises(ExpressionError, match="no expressed gene"):
        processor("<cell> <cell>", **cells)


@pytest.mark.parametrize("item", [text("which <cell>"), {"type": "image"}])
def test_messages_that_hold_something_else_are_refused(processor, item):
    with pytest.raises(ConfigurationError, match="cell"):
        processor.apply_chat_template([{"role": "user", "content": [CELL, item]}])


def test_without_a_chat_template_conversations_are_refused(processor):
    without = CellTextProcessor(processor.cell_processor, small_tokenizer(("<cell>",)))
    with pytest.raises(ConfigurationError, match="no chat template"):
        without.apply_chat_template([{"role": "user", "content": "which"}])


def test_a_tokenizer_that_pads_with_nothing_or_knows_no_cells_is_refused(processor):
    with pytest.raises(ConfigurationError, match="no token to pad with"):
        CellTextProcessor(processor.cell_processor, small_tokenizer(("<cell>",), pad_token=None, eos_token=None))
    with pytest.raises(ConfigurationError, match="no token `<cell>`"):
        CellTextProcessor(processor.cell_processor, small_tokenizer())


def test_save_and_load(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    reloaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(reloaded) is CellTextProcessor
    cells = some_cells(processor, 1)
    first, second = (one("<cell> which type", **cells) for one in (processor, reloaded))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert reloaded.chat_template == processor.chat_template
