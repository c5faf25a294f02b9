"""Data that go into prompts are made unable to act as markers: gene names, labels, retrieved documents."""

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKERS = re.compile(r"<[|｜][^<>]*[|｜]>|</?[a-z_][\w-]*>|<</?SYS>>|\[/?(?:INST|SYSTEM|TOOL)\w*\]", re.IGNORECASE)
"""What chat templates and instruction formats use as markers: `<|im_start|>`, `</s>`, `[INST]`, `<<SYS>>`, …"""


def neutralise(data: str, tokenizer: "PreTrainedTokenizerBase | None" = None) -> str:
    """`data` as one line of text in which nothing is a marker.

    White space becomes single spaces and control characters vanish, so that data cannot begin a new turn or section.
    In whatever looks like a marker, or is a special token of the tokenizer, a space follows the first character.

    Args:
        data: the text of a slot.
        tokenizer: the tokenizer of the model whose special tokens must not occur.
    """
    text = unicodedata.normalize("NFC", str(data))
    # white space first: some of it is control characters
    text = " ".join(text.split())
    text = "".join(letter for letter in text if unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co"))
    special = sorted(_special_tokens(tokenizer), key=len, reverse=True)
    while (broken := _broken(text, special)) != text:
        text = broken
    return text


def _broken(text: str, special: list[str]) -> str:
    """The text with a space after the first character of each marker."""
    text = _MARKERS.sub(lambda found: f"{found[0][0]} {found[0][1:].lstrip()}", text)
    for token in special:
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def _special_tokens(tokenizer: "PreTrainedTokenizerBase | None") -> set[str]:
    """The special tokens that are more than a character."""
    if tokenizer is None:
        return set()
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    tokens = {*tokenizer.all_special_tokens, *(str(one) for one in added if one.special)}
    return {token for token in tokens if len(token) > 1 and not token.isspace()}
