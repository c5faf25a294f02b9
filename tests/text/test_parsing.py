import pytest

from sclm_hf.text.parsing import cited_ids, closest_label, parse_blocks, read_answer, split_labels, text_of


def test_completions_are_text_or_messages():
    assert text_of("B") == "B"
    assert text_of([{"role": "assistant", "content": "B"}, {"role": "tool", "content": "x"}]) == "B"
    assert text_of([{"role": "assistant", "content": [{"type": "text", "text": "B"}, {"type": "cell"}]}]) == "B"
    assert text_of([]) == ""


def test_blocks_have_one_form():
    assert parse_blocks("<think>a\nb</think>\n<answer> B\n</answer>") == ("a\nb", "B")
    for text in ("B", "<think>a</think><answer>B</answer>", "<think>a</think>\n<answer>B</answer>\n"):
        assert parse_blocks(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("B cell ", "B cell"),
        ("<think>T</think>\nB cell", "B cell"),
        ("<answer>T</answer> no: <answer>B cell</answer>", "B cell"),
    ],
)
def test_answers_are_found_in_any_form(text, answer):
    assert read_answer(text) == answer


def test_labels_and_citations():
    assert split_labels("B | T|") == ["B", "T", ""]
    assert cited_ids("[M1] and [C2; M1], not [1] or [marker]") == ["M1", "C2"]


def test_a_label_that_begins_as_another_is_not_taken_for_it():
    labels = ["T cell", "T cell, CD8", "Treg"]
    assert closest_label("t  cell.", labels) == "T cell"
    assert closest_label("T cell, CD8", labels) == "T cell, CD8"
    assert closest_label("T", labels) is closest_label("T cell or Treg", labels) is None
    assert closest_label("b", ["B", "b "]) is None
