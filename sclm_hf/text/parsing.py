"""What a model wrote, taken apart: its reasoning, its answer, the labels in it, and what it cites."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

Completion = str | Sequence[Mapping[str, Any]]
"""A completion as TRL hands it over: text, or the messages of a conversation."""

SEPARATOR = "|"
"""What stands between the labels of an assignment."""

_BLOCKS = re.compile(r"<think>(.*)</think>\n<answer>(.*)</answer>", re.DOTALL)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_CITATION = re.compile(r"\[([A-Za-z]{1,8}\d{1,9}(?:\s*[,;]\s*[A-Za-z]{1,8}\d{1,9})*)\]")


class Parsed(NamedTuple):
    """The parts of a completion.

    Attributes:
        reasoning: what stands in its think block.
        answer: what stands in its answer block, without white space around it.
    """

    reasoning: str
    answer: str


def text_of(completion: Completion) -> str:
    """The text of a completion; of messages, the contents of all that the assistant wrote."""
    if isinstance(completion, str):
        return completion
    written = (message for message in completion if message.get("role", "assistant") == "assistant")
    return "".join(_content(message.get("content") or "") for message in written)


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def parse_blocks(text: str) -> Parsed | None:
    """Reasoning and answer of exactly one think block, a line break and one answer block, with nothing around them.

    Returns:
        None where the text has another form.
    """
    found = _BLOCKS.fullmatch(text)
    if found is None or any(text.count(tag) != 1 for tag in _TAGS):
        return None
    return Parsed(found[1], found[2].strip())


def read_answer(text: str) -> str:
    """The answer of a text of any form: its last answer block, else what follows the reasoning, else all of it."""
    blocks = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return (blocks[-1] if blocks else text.rpartition("</think>")[2]).strip()


def split_labels(answer: str) -> list[str]:
    """The labels of an assignment, in the order of its cells; what stands between two separators may be empty."""
    return [label.strip() for label in answer.split(SEPARATOR)]


def cited_ids(text: str) -> list[str]:
    """The ids of documents that a text cites as `[C1]` or `[M2, C3]`, each once, in the order of the text."""
    found = (one for group in _CITATION.findall(text) for one in re.split(r"\s*[,;]\s*", group))
    return list(dict.fromkeys(found))


def closest_label(answer: str, labels: Collection[str]) -> str | None:
    """The label that an answer is, apart from case, white space and a full stop at its end; None where it is none.

    Labels are compared as a whole: one that begins as another is never taken for it.
    """
    if answer in labels:
        return answer
    meant = " ".join(answer.split()).removesuffix(".").casefold()
    matching = [label for label in labels if " ".join(label.split()).removesuffix(".").casefold() == meant]
    return matching[0] if len(matching) == 1 else None
